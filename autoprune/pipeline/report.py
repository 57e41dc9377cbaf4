"""Pages of runs that are there: rebuilt, or several joined."""

from contextlib import suppress
from pathlib import Path

from autoprune.errors import FolderError
from autoprune.reporting.console import CONSOLE
from autoprune.reporting.pages.build import join_pages, open_saved, page_of
from autoprune.reporting.pages.page import Page, write_page
from autoprune.settings import ReportSettings


def run(settings: ReportSettings, folder: Path) -> Path:
    """Write the page of one run anew in its own folder, or one that joins several runs.

    Args:
        settings: which runs.
        folder: where a page that joins several goes.

    Returns:
        The page.

    Raises:
        FolderError: a run is no run folder, or one without a page.
    """
    several = [open_saved(Path(path)) for path in settings.runs]
    page: Page
    if len(several) == 1:
        (one,) = several
        page, path = page_of(one), one.path / ("comparison.html" if one.command == "compare" else "report.html")
    else:
        page, path = join_pages(several), folder / "report.html"
    write_page(page, path)
    for saved in several:
        for sentence in saved.missing:
            CONSOLE.print(f"{saved.path}: {sentence}", markup=False, highlight=False, soft_wrap=True)
    CONSOLE.print(f"Report: {path}", markup=False, highlight=False, soft_wrap=True)
    return path


def rebuild_page(path: Path) -> None:
    """Write the page of a run anew, of one that has a page already.

    Raises:
        OSError: it cannot be written.
    """
    for page in (path / "report.html", path / "comparison.html"):
        if page.exists():
            with suppress(FolderError):  # Of another version's folder there may be none.
                write_page(page_of(open_saved(path)), page)
