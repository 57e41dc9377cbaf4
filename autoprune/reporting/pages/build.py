"""From run folders to their page: one of its kind for a single run, one that joins several."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import FolderError
from autoprune.reporting.pages.comparison import comparison_page
from autoprune.reporting.pages.costs import measure_page
from autoprune.reporting.pages.evaluations import Course, explore
from autoprune.reporting.pages.lessons import lessons_page
from autoprune.reporting.pages.page import Chart, Group, Page, Part, Section, Table, Text
from autoprune.reporting.pages.saved import Saved
from autoprune.reporting.pages.search import SearchRun, best_chart, best_within, dimensions_of, search_page
from autoprune.reporting.pages.training import training_page
from autoprune.reporting.tables import byte_count, seconds, share_of

_PAGES: dict[str, Callable[[Saved], Page]] = {
    "search": search_page,
    "replay": search_page,
    "autoprune.prune()": search_page,
    "compare": comparison_page,
    "finetune": training_page,
    "learn": lessons_page,
    "measure": measure_page,
}
# By what only its folder has, where nothing says what the run is of; the first that fits.
_SIGNS = (
    *(("comparison.json", "compare"), ("costs.json", "measure"), ("curves.json", "finetune")),
    *(("metrics.json", "search"), ("evaluations.sqlite", "search")),
)
_SEARCHES = [command for command, make in _PAGES.items() if make is search_page]


def open_saved(path: Path) -> Saved:
    """A run folder of which there can be a page.

    Raises:
        FolderError: it is no folder, or of a run without a page.
    """
    if not path.is_dir():
        raise FolderError(f"run is a run folder, or several. There is no folder '{path}'.")
    saved = Saved(path)
    if not saved.command:
        saved.command = next((command for sign, command in _SIGNS if (path / sign).exists()), "")
    if saved.command not in _PAGES:
        what = f"a run of '{saved.command}'" if saved.command else "no run"
        raise FolderError(f"'{path}' holds {what}, of which there is no page. Pages are of {', '.join(_PAGES)}.")
    return saved


def page_of(saved: Saved) -> Page:
    """The page of a single run."""
    return _PAGES[saved.command](saved)


def join_pages(several: Sequence[Saved]) -> Page:
    """One page of several runs: results side by side, searches of one network in one chart, then each by itself."""
    names = _short_names([saved.path for saved in several])
    pages = {name: page_of(saved) for name, saved in zip(names, several, strict=True)}
    runs = {
        name: SearchRun(Saved(saved.path))
        for name, saved in zip(names, several, strict=True)
        if saved.command in _SEARCHES
    }
    sections = [
        Section(
            key="runs",
            title="Runs",
            parts=[Table(columns=("run", "what came of it"), rows=[(n, page.headline) for n, page in pages.items()])],
        )
    ]
    data: dict[str, Any] = {}
    if len(runs) > 1:
        sections += [Section(key="results", title="Results side by side", parts=[_results(runs)])]
        if _comparable(list(runs.values())):
            parts, data = _evaluations(runs)
            sections += [
                Section(key="evaluations", title="Every evaluation", parts=parts),
                Section(key="curves", title="Best so far", parts=_curves(runs)),
            ]
        else:
            words = "The runs differ in dense network, target or budget: their evaluations do not stand in one chart."
            sections[-1] = replace(sections[-1], parts=[*sections[-1].parts, Text(words=[words], look="note")])
    elif runs:
        data = dict(pages[next(iter(runs))].data)
    for number, (name, page) in enumerate(pages.items()):
        # What can be explored is on a page once.
        shown = [section for section in page.sections if section.key != "evaluations" or len(runs) == 1]
        sections += [
            Section(
                key=f"run{number}-{section.key}",
                title=f"{name}: {section.title}",
                parts=[_rename(part, f"run{number}") for part in section.parts],
                listed=place == 0,
            )
            for place, section in enumerate(shown)
        ]
    titles = list(dict.fromkeys(page.title for page in pages.values()))
    return Page(
        title=titles[0] if len(titles) == 1 else f"{len(pages)} runs",
        kind="runs side by side",
        headline=f"{len(pages)} runs side by side: {', '.join(pages)}.",
        cautions=[f"{name}: {caution}" for name, page in pages.items() for caution in page.cautions],
        sections=sections,
        data=data,
    )


def _short_names(paths: Sequence[Path]) -> list[str]:
    """As few of the last parts of paths as tell them apart."""
    parts = [path.absolute().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(one[-1:])} ({number})" for number, one in enumerate(parts, 1)]


def _results(runs: dict[str, SearchRun]) -> Table:
    rows = [
        (
            name,
            row.name + (", saved" if row.name == run.metrics.get("kept") else ""),
            row.measure.tell(row.test_accuracy),
            ", ".join(row.cost.parts) or row.cost.target.name,
            seconds(row.cost.latency),
            share_of(row.cost.latency, run.rows[0].cost.latency),
            byte_count(row.cost.memory.total),
            share_of(row.cost.memory.total, run.rows[0].cost.memory.total),
        )
        for name, run in runs.items()
        for row in run.rows
    ]
    measures = list(dict.fromkeys(row.measure.name for run in runs.values() for row in run.rows))
    columns = ("run", "plan", f"test {', '.join(measures)}", "target", "latency", "of dense", "HBM", "of dense")
    caption = "Test figures after fine-tuning, taken once in each run. Shares are of the run's own dense network."
    return Table(columns=columns, rows=rows, caption=caption)


def _comparable(runs: Sequence[SearchRun]) -> bool:
    """Whether evaluations of runs may stand in one chart: of one dense network, on one target, for one budget."""
    seen = {
        (run.dense.required_cost.latency, run.dense.required_cost.target, run.dense.accuracy, run.budget, run.measure)
        for run in runs
        if run.dense is not None
    }
    return len(seen) == 1 and all(run.dense is not None for run in runs)


def _evaluations(runs: dict[str, SearchRun]) -> tuple[list[Part], dict[str, Any]]:
    """The fronts of all runs together; a searcher whose evaluations are the same in all of them stands there once."""
    courses: list[Course] = []
    seen = set()
    for name, run in runs.items():
        for searcher, evaluations in run.courses.items():
            content = (searcher, tuple(one.key for one in evaluations))
            if content not in seen and run.dense is not None:
                seen.add(content)
                courses.append(Course(name=f"{name}: {searcher}", evaluations=evaluations, dense=run.dense))
    sizes, branches = dimensions_of(list(runs.values()))
    budget = next(iter(runs.values())).budget
    # The dense model, and what each run has saved.
    places = {course.name: number for number, course in enumerate(courses)}
    finished = next(iter(runs.values())).list_finished({})[:1]
    for name, run in runs.items():
        saved = [point for point in run.list_finished({}) if run.kept is not None and point.name == run.kept.name]
        finished += [replace(point, name=name, series=places.get(f"{name}: {point.name}")) for point in saved]
    return explore(courses, sizes, branches, finished, budget, next(iter(runs.values())).measure)


def _curves(runs: dict[str, SearchRun]) -> list[Part]:
    """At equal evaluations: the mean of each searcher's runs, and from the worst of them to the best."""
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for run in runs.values():
        for searcher, course in run.courses.items():
            if curve := best_within(course, run.budget):
                found.setdefault(searcher, []).append(curve)
    drawn = {}
    for searcher, curves in found.items():
        first = max(int(curve[0][0]) for curve in curves)
        values = [[value for number, value in curve if number >= first] for curve in curves]
        length = max(map(len, values))
        # One that stopped early keeps what it had.
        table = np.array([[*one, *[one[-1]] * (length - len(one))] for one in values])
        numbers = np.arange(first, first + length).astype(float)
        points = list(zip(numbers, table.mean(0), strict=True))
        band = list(zip(numbers, table.min(0), table.max(0), strict=True)) if len(curves) > 1 else []
        drawn[searcher] = (points, band)
    if not drawn:
        return []
    told = "; ".join(f"{name} {points[-1][1]:.3f} in {len(found[name])} runs" for name, (points, _) in drawn.items())
    caption = "Means over runs of the best score within the budget, before fine-tuning; bands: from worst to best."
    return [best_chart(drawn, f"Mean best score within the budget, at the end: {told}.", caption)]


def _rename(part: Part, prefix: str) -> Part:
    """The part with keys of its own."""
    if isinstance(part, Group):
        return replace(part, parts=[_rename(one, prefix) for one in part.parts])
    # Those that can be explored are on a page once, and its script knows them by their names.
    return replace(part, key=f"{prefix}-{part.key}") if isinstance(part, Chart) else part
