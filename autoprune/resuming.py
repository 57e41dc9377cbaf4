"""What commands share that can be interrupted: they begin in a run folder, or go on in one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from autoprune import cli
from autoprune.errors import SettingsError
from autoprune.reporting import interrupts
from autoprune.reporting.console import CONSOLE
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings import from_config

S = TypeVar("S")  # Settings of a command.


def begun(config: DictConfig, schema: type[S], what: str, extensible: Sequence[str] = ()) -> tuple[S, RunFolder]:
    """The settings and the run folder: new ones, or those of the run that `resume` names.

    Args:
        config: of the command line.
        schema: of the command's settings.
        what: the command makes, such as `search`.
        extensible: settings that may be given anew beside `resume`; the folder keeps its own until they are saved.

    Raises:
        SettingsError: something else was given beside `resume`, or the folder holds no run.
    """
    folder = RunFolder.make(cli.run_folder())
    if config.resume is None:
        settings = from_config(config, schema)
        folder.save_settings(settings)
        return settings, folder
    anew = {override.partition("=")[0] for override in cli.overrides()} - {"resume"}
    if not anew <= set(extensible):
        beside = f", or with {', '.join(extensible)} beside it" if extensible else ""
        raise SettingsError(
            f"A resumed {what} takes all its settings from its folder: give resume=FOLDER alone{beside}."
        )
    # Whether they can be depends on the folder's other settings, not on the defaults.
    return folder.load_settings(schema, {name: config[name] for name in anew}), folder


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
