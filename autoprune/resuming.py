"""What commands share: they begin in a run folder of their own, or go on in one; nobody else is in it meanwhile."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

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

FORMAT = "autoprune.run"
VERSION = 1

FROM_PYTHON = "autoprune.search()"
# What leaves a run folder, and what a run of it is called.
RUNS = {
    "search": "search",
    "replay": "replay",
    "learn": "training",
    "compare": "comparison",
    "finetune": "fine-tuning",
    "measure": "measurement",
    "export": "export",
    FROM_PYTHON: "search from Python",
}


@contextmanager
def begun(
    config: DictConfig,
    schema: type[S],
    command: str,
    extensible: Sequence[str] = (),
    complete: Callable[[S], S] = lambda settings: settings,
) -> Iterator[tuple[S, RunFolder]]:
    """The settings and the run folder, locked within the block: new ones, or those of a run that is taken up.

    That is the run that `resume` names, or one that `hydra.run.dir` leads to and that was begun with the same settings.

    Args:
        config: of the command line.
        schema: of the command's settings.
        command: its name, one of `RUNS`.
        extensible: settings that may be given anew beside `resume`; the folder keeps its own until they are saved.
        complete: fills in what new settings leave open.

    Raises:
        FolderError: another process works in the folder, or it holds a run of something else.
        SettingsError: something else was given beside `resume`, or the folder holds no run.
    """
    resume, path = OmegaConf.select(config, "resume"), cli.run_folder()
    if resume is None:
        settings = complete(from_config(config, schema))
    else:
        anew = _given_beside(resume, path, command, extensible)
    folder = RunFolder.make(path)
    with folder.locked():
        known = resume is not None or folder.settings.exists()
        if resume is not None:
            _origin(folder, command)
            # Whether they can be depends on the folder's other settings, not on the defaults.
            settings = folder.load_settings(schema, {name: OmegaConf.select(config, name) for name in anew})
        elif known:
            _check_same(folder, settings, command, extensible)
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
def begun_from_python(
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
    with folder.locked():
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
        raise FolderError(
            f"'{folder.path}' is the folder of a {RUNS.get(origin.get('command'), 'run')}, which a {RUNS[command]} "
            "cannot go on with. Take another folder."
        )
    return origin


def _given_beside(resume: str, path: Path, command: str, extensible: Sequence[str]) -> set[str]:
    """Names of the settings that were given beside `resume`.

    Raises:
        SettingsError: they cannot be given beside it.
    """
    if Path(resume).resolve() != path.resolve():
        raise SettingsError(
            f"A resumed run goes on in its own folder: give resume={resume} without hydra.run.dir, and without -m."
        )
    anew = {override.partition("=")[0] for override in cli.overrides()} - {"resume"}
    if not anew <= set(extensible):
        beside = f", or with {', '.join(extensible)} beside it" if extensible else ""
        raise SettingsError(
            f"A resumed {RUNS[command]} takes all its settings from its folder: give resume=FOLDER alone{beside}. "
            f"Received: {', '.join(sorted(anew - set(extensible)))}"
        )
    return anew


def _check_same(folder: RunFolder, settings: Any, command: str, extensible: Sequence[str]) -> None:
    """Refuse a folder that holds a run of something else than is asked for.

    Raises:
        FolderError: saying what differs, and the ways out.
    """
    origin, asked = _origin(folder, command), absolute_settings(settings)
    try:
        stored = absolute_settings(folder.load_settings(type(settings)))
    except SettingsError as error:
        raise FolderError(
            f"'{folder.path}' holds a run that this {RUNS[command]} cannot go on with: {error}\nTake another folder."
        ) from error
    found, read = differences(stored, asked), read_files(asked)
    changed = [path for path, known in origin.get("files", {}).items() if path in read and read[path] != known]
    if not found and not changed:
        return
    told = [describe_differences(found)] if found else []
    told += [f"{path} has changed since" for path in changed]
    resumed = f"python -m autoprune.{command} resume={folder.path}"
    ways = f"To go on with it: {resumed}"
    if not changed and found.keys() <= set(extensible):
        ways = f"To extend it: {resumed} {' '.join(f'{name}={json.dumps(here)}' for name, (_, here) in found.items())}"
    elif "resume" not in asked:
        ways = "It stays as it is."
    raise FolderError(
        f"'{folder.path}' holds a {RUNS[command]} of something else: {'; '.join(told)}.\n{ways}\n"
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


def extend_run(folder: RunFolder, report: Path, settings: Any) -> bool:
    """Whether more is asked for than the run of a folder had when it ended.

    The settings of one that has not ended become these at once; those of one that has, with its next result.

    Args:
        folder: of the run.
        report: what is written last.
        settings: as `begun` gives them.
    """
    if folder.load_settings(type(settings)) == settings:
        return False
    if not report.exists():
        folder.save_settings(settings)
    return True


def has_ended(report: Path, what: str) -> bool:
    """Whether a run has come to its end already; then that is said."""
    if report.exists():
        CONSOLE.print(f"This {what} has ended: its report is {report}", soft_wrap=True, highlight=False)
    return report.exists()


@contextmanager
def interruptible(command: str, folder: RunFolder, kept: str) -> Iterator[None]:
    """Ctrl-C within the block is answered with what is kept and how to go on."""
    try:
        with interrupts.remembered():
            yield
    except KeyboardInterrupt:
        # What was given beside `resume` may not have got into the folder's settings yet.
        resumed = any(override.startswith("resume=") for override in cli.overrides())
        beside = [f" {given}" for given in cli.overrides() if resumed and not given.startswith("resume=")]
        CONSOLE.print(
            f"\nInterrupted. {kept} is in {folder.path}. Go on with:\n"
            f"  python -m autoprune.{command} resume={folder.path}{''.join(beside)}",
            soft_wrap=True,
            highlight=False,
        )
        raise
