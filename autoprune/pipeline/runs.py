"""What a run folder is a run of: kinds of runs, what is noted of how one was begun, and runs from Python."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import FolderError, SettingsError
from autoprune.evaluation.journal import count_requests
from autoprune.records.plain import read_json, write_json
from autoprune.reporting.run_folder import (
    RunFolder,
    absolute_settings,
    describe_differences,
    differences,
)
from autoprune.settings import SearchSettings, TrackingSettings

FORMAT = "autoprune.run"
VERSION = 1

FROM_PYTHON = "autoprune.prune()"


@dataclass(frozen=True, kw_only=True)
class RunKind:
    """How the runs of a command are told of, and how they can be resumed.

    Attributes:
        noun: what one is called.
        report: name of the file that is written last: a run that has it is finished. Empty where a run that is taken up
            is done again.
        kept: what an interrupted one leaves.
        extensible: settings that may be given anew beside `resume`: more is asked for then.
        changeable: settings that may be others in every command, since no result depends on them.
        uncounted: evaluations of each searcher that the setting for their number leaves out.
    """

    noun: str
    report: str = ""
    kept: str = ""
    extensible: tuple[str, ...] = ()
    changeable: tuple[str, ...] = ()
    uncounted: int = 0


_EVALUATIONS = "Every evaluation so far"
_TRACKING = tuple(f"tracking.{item.name}" for item in dataclasses.fields(TrackingSettings))
_ANY = ("workers", "ray.address", "ray.actors", "ray.resources", *_TRACKING)
# Of whatever leaves a run folder.
RUNS = {
    "search": RunKind(
        noun="search", report="report.html", kept=_EVALUATIONS, extensible=("search.evaluations",), changeable=_ANY
    ),
    "replay": RunKind(
        noun="replay",
        report="report.html",
        kept=_EVALUATIONS,
        extensible=("replay.evaluations",),
        changeable=_ANY,
        uncounted=1,  # The plan of the policy as it came is scored beside those that adapt it.
    ),
    "learn": RunKind(
        noun="training", report="metrics.json", kept=_EVALUATIONS, extensible=("search.evaluations",), changeable=_ANY
    ),
    "compare": RunKind(
        noun="comparison",
        report="comparison.html",
        kept="Everything that was done",
        # What is compared. How it is compared stays, or what is there already could not stand beside what comes.
        extensible=("searchers", "latencies", "memories", "seeds", "controls", "uniform_curve"),
        changeable=_ANY,
    ),
    "finetune": RunKind(noun="fine-tuning", report="report.html", kept="The last checkpoint", changeable=_TRACKING),
    "measure": RunKind(noun="measurement"),
    "export": RunKind(noun="export"),
    "report": RunKind(noun="report"),
    FROM_PYTHON: RunKind(noun="search from Python"),
}


@contextmanager
def open_run_from_python(
    path: str | Path | None, settings: SearchSettings, fingerprints: Mapping[str, str]
) -> Iterator[RunFolder]:
    """The run folder of a call from Python, locked within the block.

    Args:
        path: None makes a new one.
        settings: of the search. A folder that is given again may get more evaluations than it had.
        fingerprints: of model and data, which the settings do not name.

    Raises:
        FolderError: another process works in the folder, or it holds a run of something else.
        SettingsError: the folder's search has had more evaluations.
    """
    folder = RunFolder.make(path) if path else RunFolder.make_new(time.strftime("outputs/search/%Y-%m-%d/%H-%M-%S"))
    asked = {k: v for k, v in absolute_settings(settings).items() if k not in ("model", "data", "resume")}
    with folder.hold():
        origin = read_origin(folder, FROM_PYTHON)
        if folder.settings.exists():
            raise FolderError(f"'{folder.path}' holds a run of a command. Give another folder.")
        known = asked
        if "settings" in origin:
            # Options that the run knows nothing of had what is the default now.
            known = {name: value for name, value in dataclasses.asdict(SearchSettings()).items() if name in asked}
            for name, value in origin["settings"].items():
                known[name] = {**known[name], **value} if isinstance(known.get(name), dict) else value
        found = differences(known, asked)
        found |= differences(origin.get("files", fingerprints), fingerprints)
        if found.keys() - {"search.evaluations", *_ANY}:
            raise FolderError(
                f"'{folder.path}' holds a search of something else: {describe_differences(found)}. Give another "
                "folder, or none, and one is made."
            )
        check_extension("evaluations", settings.search.evaluations, folder)
        write_origin(folder, FROM_PYTHON, settings=asked, files=fingerprints)
        yield folder


def write_origin(folder: RunFolder, command: str, **others: Any) -> None:
    """Note what a folder is a run of."""
    write_json(folder.origin, {"format": FORMAT, "version": VERSION, "command": command, **others})


def read_origin(folder: RunFolder, command: str) -> dict[str, Any]:
    """What is known of how a folder was begun; empty for a new one, or one of an older version.

    Raises:
        FolderError: it was begun by another command.
    """
    try:
        origin = read_json(folder.origin)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FolderError(f"'{folder.origin}' is damaged: {error}. Take another folder.") from error
    if not isinstance(origin, dict):
        raise FolderError(f"'{folder.origin}' is damaged: it holds {str(origin)[:60]!r}. Take another folder.")
    if origin.get("command") != command:
        theirs = RUNS.get(str(origin.get("command")), RunKind(noun="run"))
        raise FolderError(
            f"'{folder.path}' is the folder of a {theirs.noun}, which a {RUNS[command].noun} cannot go on with. Take "
            "another folder."
        )
    return origin


def check_extension(name: str, asked: int, folder: RunFolder, *, uncounted: int = 0) -> None:
    """Refuse fewer evaluations than the run of a folder has had.

    Args:
        name: name of the setting for the number of evaluations.
        asked: its value.
        folder: of the run, which has a journal, or folders with one each.
        uncounted: evaluations of each searcher that the setting leaves out.

    Raises:
        SettingsError: there are more.
    """
    journals = [folder.journal, *folder.path.glob(f"*/{folder.journal.name}")]
    done = max(count_requests(journal) for journal in journals) - uncounted
    if asked < done:
        raise SettingsError(f"{name} must be {done} or more: so many are done in '{folder.path}'. Received: {asked}")
