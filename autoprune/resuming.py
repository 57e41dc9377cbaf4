"""What commands share: they begin in a run folder of their own, or go on in one; nobody else is in it meanwhile."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig, OmegaConf

from autoprune import cli
from autoprune.errors import AutopruneError, FolderError, SettingsError
from autoprune.evaluation.journal import count_requests
from autoprune.reporting import interrupts
from autoprune.reporting.console import CONSOLE
from autoprune.reporting.run_folder import (
    RunFolder,
    absolute_settings,
    describe_differences,
    differences,
    read_files,
    write_json,
)
from autoprune.settings import SearchSettings, from_config

S = TypeVar("S")  # Settings of a command.
R = TypeVar("R")  # What it returns.

FORMAT = "autoprune.run"
VERSION = 1

FROM_PYTHON = "autoprune.search()"


@dataclass(frozen=True, kw_only=True)
class RunKind:
    """How the runs of a command are told of, and how they can be resumed.

    Attributes:
        noun: what one is called.
        report: name of the file that is written last: a run that has it is finished. Empty where a run that is taken up
            is done again.
        kept: what an interrupted one leaves.
        extensible: settings that may be given anew beside `resume`.
        uncounted: evaluations of each searcher that the setting for their number leaves out.
    """

    noun: str
    report: str = ""
    kept: str = ""
    extensible: tuple[str, ...] = ()
    uncounted: int = 0


@dataclass(frozen=True, eq=False)
class CompletedRun(Generic[S, R]):
    """A run that has just been completed: its settings, its folder, and what the command returned."""

    settings: S
    folder: RunFolder
    result: R


_EVALUATIONS = "Every evaluation so far"
# Of whatever leaves a run folder.
RUNS = {
    "search": RunKind(noun="search", report="report.html", kept=_EVALUATIONS, extensible=("search.evaluations",)),
    # The plan of the policy as it came is scored beside those that adapt it.
    "replay": RunKind(
        noun="replay", report="report.html", kept=_EVALUATIONS, extensible=("replay.evaluations",), uncounted=1
    ),
    "learn": RunKind(noun="training", report="metrics.json", kept=_EVALUATIONS, extensible=("search.evaluations",)),
    "compare": RunKind(
        noun="comparison",
        report="comparison.html",
        kept="Everything that was done",
        # What is compared. How it is compared stays, or what is there already could not stand beside what comes.
        extensible=("searchers", "latencies", "memories", "seeds", "controls", "uniform_curve"),
    ),
    "finetune": RunKind(noun="fine-tuning", report="report.html", kept="The last checkpoint"),
    "measure": RunKind(noun="measurement"),
    "export": RunKind(noun="export"),
    FROM_PYTHON: RunKind(noun="search from Python"),
}


def run_or_resume(
    config: DictConfig,
    schema: type[S],
    command: str,
    run: Callable[[S, RunFolder], R],
    *,
    complete: Callable[[S], S] = lambda settings: settings,
    finished: Callable[[S, RunFolder], bool] | None = None,
) -> CompletedRun[S, R] | None:
    """Run a command in a folder of its own, or go on with the run of one; of a finished run say where its report is.

    Ctrl-C is answered with what is kept and how to go on.

    Args:
        config: of the command line.
        schema: of the command's settings.
        command: its name, one of `RUNS`.
        run: the command itself.
        complete: fills in what new settings leave open.
        finished: whether the run of a folder has ended with all that the settings ask for; by default `is_finished`.

    Returns:
        The run; None when it was finished already.

    Raises:
        FolderError: another process works in the folder, or it holds a run of something else.
        SettingsError: something was given beside `resume` that cannot be, or the folder holds no run.
    """
    kind = RUNS[command]
    with open_run(config, schema, command, complete) as (settings, folder):
        if finished(settings, folder) if finished else is_finished(command, settings, folder):
            report = folder.path / kind.report
            CONSOLE.print(f"This {kind.noun} has ended: its report is {report}", soft_wrap=True, highlight=False)
            return None
        with interruptible(command, folder):
            result = run(settings, folder)
        folder.save_settings(settings)  # Others than it was begun with, if they were given beside `resume`.
    return CompletedRun(settings, folder, result)


@contextmanager
def open_run(
    config: DictConfig, schema: type[S], command: str, complete: Callable[[S], S] = lambda settings: settings
) -> Iterator[tuple[S, RunFolder]]:
    """The settings and the run folder, locked within the block: new ones, or those of a run that is taken up.

    That is the run that `resume` names, or one that `hydra.run.dir` leads to and that was begun with the same settings.
    The folder keeps the settings that it has until those that are given anew beside `resume` are saved.

    Args:
        config: of the command line.
        schema: of the command's settings.
        command: its name, one of `RUNS`.
        complete: fills in what new settings leave open.

    Raises:
        FolderError: another process works in the folder, or it holds a run of something else.
        SettingsError: something was given beside `resume` that cannot be, or the folder holds no run.
    """
    resume, path = OmegaConf.select(config, "resume"), cli.run_folder()
    if resume is None:
        settings = complete(from_config(config, schema))
    else:
        anew = _options_beside_resume(resume, path, command)
    folder = RunFolder.make(path)
    with folder.hold():
        known = resume is not None or folder.settings.exists()
        if resume is not None:
            _origin(folder, command)
            # Whether they can be depends on the folder's other settings, not on the defaults.
            settings = folder.load_settings(schema, {name: OmegaConf.select(config, name) for name in anew})
        elif known:
            _check_same(folder, settings, command)
            settings = folder.load_settings(schema)
        else:
            _write_origin(folder, command, files=read_files(absolute_settings(settings)))
            folder.save_settings(settings)
        cli.save_config(config, folder.path / (".hydra/resumed" if known else ".hydra"))
        try:
            yield settings, folder
        except (AutopruneError, OSError):
            if not known:
                _forget_if_nothing_was_done(folder, command)
            raise


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
        origin = _origin(folder, FROM_PYTHON)
        if folder.settings.exists():
            raise FolderError(f"'{folder.path}' holds a run of a command. Give another folder.")
        found = differences(origin.get("settings", asked), asked)
        found |= differences(origin.get("files", fingerprints), fingerprints)
        if found.keys() - {"search.evaluations"}:
            raise FolderError(
                f"'{folder.path}' holds a search of something else: {describe_differences(found)}. Give another "
                "folder, or none, and one is made."
            )
        check_extension("evaluations", settings.search.evaluations, folder)
        _write_origin(folder, FROM_PYTHON, settings=asked, files=fingerprints)
        yield folder


def _forget_if_nothing_was_done(folder: RunFolder, command: str) -> None:
    """Take back what says that a folder is a run's when that was refused at once: corrected settings may have it."""
    about = {folder.settings, folder.origin, folder.lock, folder.path / ".hydra", folder.path / f"{command}.log"}
    if set(folder.path.iterdir()) <= about:
        shutil.rmtree(folder.path)


def _write_origin(folder: RunFolder, command: str, **others: Any) -> None:
    write_json(folder.origin, {"format": FORMAT, "version": VERSION, "command": command, **others})


def _origin(folder: RunFolder, command: str) -> dict[str, Any]:
    """What is known of how a folder was begun; empty for a new one, or one of an older version.

    Raises:
        FolderError: it was begun by another command.
    """
    try:
        origin = json.loads(folder.origin.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FolderError(f"'{folder.origin}' is damaged: {error}. Take another folder.") from error
    if origin.get("command") != command:
        theirs = RUNS.get(origin.get("command"), RunKind(noun="run"))
        raise FolderError(
            f"'{folder.path}' is the folder of a {theirs.noun}, which a {RUNS[command].noun} cannot go on with. Take "
            "another folder."
        )
    return origin


def _options_beside_resume(resume: str, path: Path, command: str) -> set[str]:
    """Names of the settings that were given beside `resume`.

    Raises:
        SettingsError: they cannot be given beside it.
    """
    if Path(resume).resolve() != path.resolve():
        raise SettingsError(
            f"A resumed run goes on in its own folder: give resume={resume} without hydra.run.dir, and without -m."
        )
    anew = {override.partition("=")[0] for override in cli.overrides()} - {"resume"}
    kind = RUNS[command]
    if not anew <= set(kind.extensible):
        beside = f", or with {', '.join(kind.extensible)} beside it" if kind.extensible else ""
        raise SettingsError(
            f"A resumed {kind.noun} takes all its settings from its folder: give resume=FOLDER alone{beside}. "
            f"Received: {', '.join(sorted(anew - set(kind.extensible)))}"
        )
    return anew


def _check_same(folder: RunFolder, settings: Any, command: str) -> None:
    """Refuse a folder that holds a run of something else than is asked for.

    Raises:
        FolderError: saying what differs, and the ways out.
    """
    kind, origin, asked = RUNS[command], _origin(folder, command), absolute_settings(settings)
    try:
        stored = absolute_settings(folder.load_settings(type(settings)))
    except SettingsError as error:
        raise FolderError(
            f"'{folder.path}' holds a run that this {kind.noun} cannot go on with: {error}\nTake another folder."
        ) from error
    found, read = differences(stored, asked), read_files(asked)
    changed = [path for path, known in origin.get("files", {}).items() if path in read and read[path] != known]
    if not found and not changed:
        return
    told = [describe_differences(found)] if found else []
    told += [f"{path} has changed since" for path in changed]
    resumed = f"python -m autoprune.{command} resume={folder.path}"
    ways = f"To go on with it: {resumed}"
    if not changed and found.keys() <= set(kind.extensible):
        ways = f"To extend it: {resumed} {' '.join(f'{name}={json.dumps(here)}' for name, (_, here) in found.items())}"
    elif "resume" not in asked:
        ways = "It stays as it is."
    raise FolderError(
        f"'{folder.path}' holds a {kind.noun} of something else: {'; '.join(told)}.\n{ways}\n"
        "Or take another folder: hydra.run.dir=FOLDER, or leave it out, and one is made."
    )


def check_extension(name: str, asked: int, folder: RunFolder, *, uncounted: int = 0) -> None:
    """Refuse fewer evaluations than the run of a folder has had.

    Args:
        name: of the setting.
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


def is_finished(command: str, settings: Any, folder: RunFolder) -> bool:
    """Whether the run of a folder has ended with all that the settings ask for.

    The settings of one that has not ended become the folder's at once; those of one that has, with its next result.

    Raises:
        SettingsError: fewer evaluations are asked for than there are.
    """
    kind = RUNS[command]
    for name in kind.extensible:
        check_extension(name, attrgetter(name)(settings), folder, uncounted=kind.uncounted)
    if (folder.path / kind.report).exists():
        return folder.load_settings(type(settings)) == settings
    folder.save_settings(settings)
    return False


@contextmanager
def interruptible(command: str, folder: RunFolder) -> Iterator[None]:
    """Ctrl-C within the block is answered with what is kept and how to go on."""
    try:
        with interrupts.remember():
            yield
    except KeyboardInterrupt:
        # What was given beside `resume` may not have got into the folder's settings yet.
        resumed = any(override.startswith("resume=") for override in cli.overrides())
        beside = [f" {given}" for given in cli.overrides() if resumed and not given.startswith("resume=")]
        CONSOLE.print(
            f"\nInterrupted. {RUNS[command].kept} is in {folder.path}. Go on with:\n"
            f"  python -m autoprune.{command} resume={folder.path}{''.join(beside)}",
            soft_wrap=True,
            highlight=False,
        )
        raise
