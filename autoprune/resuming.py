"""What commands share: they begin in a run folder of their own, or go on in one; nobody else is in it meanwhile."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig, OmegaConf

from autoprune import cli
from autoprune.errors import AutopruneError, FolderError, SettingsError
from autoprune.pipeline.runs import RUNS, check_extension, read_origin, write_origin
from autoprune.pipeline.tracking import track
from autoprune.reporting import interrupts
from autoprune.reporting.console import CONSOLE
from autoprune.reporting.run_folder import (
    RunFolder,
    absolute_settings,
    describe_differences,
    differences,
    read_files,
)
from autoprune.settings import from_config

S = TypeVar("S")  # Settings of a command.
R = TypeVar("R")  # What it returns.


@dataclass(frozen=True, eq=False)
class CompletedRun(Generic[S, R]):
    """A run that has just been completed: its settings, its folder, and what the command returned."""

    settings: S
    folder: RunFolder
    result: R


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
        config: what the command line and the config files compose.
        schema: class of the command's settings.
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
        with track(settings, folder, command), interruptible(command, folder):
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
        config: what the command line and the config files compose.
        schema: class of the command's settings.
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
            read_origin(folder, command)
            # Whether they can be depends on the folder's other settings, not on the defaults.
            settings = folder.load_settings(schema, {name: OmegaConf.select(config, name) for name in anew})
        elif known:
            _check_same(folder, settings, command)
            changed = {name: attrgetter(name)(settings) for name in RUNS[command].changeable}
            settings = folder.load_settings(schema, changed)
        else:
            write_origin(folder, command, files=read_files(absolute_settings(settings)))
            folder.save_settings(settings)
        cli.save_config(config, folder.path / (".hydra/resumed" if known else ".hydra"))
        try:
            yield settings, folder
        except (AutopruneError, OSError):
            about = {folder.settings, folder.origin, folder.lock, path / ".hydra", path / f"{command}.log"}
            about |= {folder.tracked, path / "mlflow", path / "wandb"}
            if not known and set(path.iterdir()) <= about:
                # What was refused at once leaves nothing of the run: corrected settings may have the folder.
                shutil.rmtree(path)
            raise


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
    able = (*kind.extensible, *kind.changeable)
    if not anew <= set(able):
        beside = f", or with {', '.join(able)} beside it" if able else ""
        raise SettingsError(
            f"A resumed {kind.noun} takes all its settings from its folder: give resume=FOLDER alone{beside}. "
            f"Received: {', '.join(sorted(anew - set(able)))}"
        )
    return anew


def _check_same(folder: RunFolder, settings: Any, command: str) -> None:
    """Refuse a folder that holds a run of something else than is asked for.

    Raises:
        FolderError: saying what differs, and the ways out.
    """
    kind, origin, asked = RUNS[command], read_origin(folder, command), absolute_settings(settings)
    try:
        stored = absolute_settings(folder.load_settings(type(settings)))
    except SettingsError as error:
        raise FolderError(
            f"'{folder.path}' holds a run that this {kind.noun} cannot go on with: {error}\nTake another folder."
        ) from error
    found, read = differences(stored, asked), read_files(asked)
    found = {name: values for name, values in found.items() if name not in kind.changeable}
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
