"""What all commands share: a quiet and quick start, errors without a traceback, and what the exit code says.

Exit codes: 0, done; 2, something that the user can mend; 1, a fault of autoprune; 130, ended by Ctrl-C.
"""

import errno
import faulthandler
import functools
import importlib
import json
import logging
import math
import os
import shutil
import sqlite3
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from autoprune import __version__
from autoprune.errors import AutopruneError
from autoprune.option_help import describe_command
from autoprune.options import check_arguments, describe_hydra_error
from autoprune.reporting import interrupts
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings.places import QUIET

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

FAULT, REFUSED, INTERRUPTED = 1, 2, 130  # The last is the shell's code for a command ended by Ctrl-C.

ABOUT = {
    "search": "from a model and a budget to a smaller model, with the evidence",
    "finetune": "fine-tunes the result of a search, or a model of a file",
    "export": "a result as SavedModel, LiteRT or ONNX, checked against the model",
    "measure": "what a model costs on a target, and what of it can be pruned",
    "replay": "a policy that was learnt elsewhere, on a new model",
    "learn": "one policy from several networks and budgets, for replay",
    "report": "the page of a run anew, or one page of several runs",
    "compare": "searchers, budgets and seeds against each other, with statistics",
}
EXAMPLES = {
    "search": "python -m autoprune.search model=file model.path=my.keras data=npz data.path=my.npz budget.latency=0.5",
    "finetune": "python -m autoprune.finetune run=outputs/search/DATE/TIME training.fine_tune_epochs=20",
    "export": "python -m autoprune.export run=outputs/search/DATE/TIME",
    "measure": "python -m autoprune.measure model=file model.path=my.keras target=all groups=true",
    "replay": "python -m autoprune.replay policy=outputs/learn/DATE/TIME/policy model=resnet20",
    "learn": "python -m autoprune.learn models=[plain_cnn,small_resnet,resnet20]",
    "report": "python -m autoprune.report run=[outputs/search/DATE/ONE,outputs/search/DATE/OTHER]",
    "compare": "python -m autoprune.compare searchers=[uniform,random,rl] latencies=[0.5] seeds=[0,1,2]",
}
_NOT_RESUMED = ("export", "measure", "report")
# What Hydra answers from the config alone, before anything slow is imported.
_TELLING = ("--hydra-help", "--cfg", "-c", "--info", "-i")
# What the machine refuses. Libraries turn such errors into others of their own, which keep the words.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR)
_REFUSING = (
    *(os.strerror(code) for code in _REFUSALS if code not in (errno.EACCES, errno.EPERM, errno.ENOTDIR)),
    *("disk is full", "readonly database", "unable to open database file", "disk I/O error"),
)
_SWEEP_FAILURES = "failed_jobs.jsonl"


# A resumed run goes on in its own folder; another one gets a folder that no other run has, however many begin at once.
OmegaConf.register_new_resolver(
    "autoprune.run_folder",
    lambda resume, new: resume or str(RunFolder.make_new(new).path),
    use_cache=True,
    replace=True,
)


def run_command(command: str) -> int:
    """Entry point of a command: check the options on the command line, then let Hydra start it.

    Args:
        command: name of the command's module and of its root config.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:]
    if "--version" in arguments:
        sys.stdout.write(f"autoprune {__version__}\n")
        return 0
    if "--quiet" in arguments:
        arguments = [argument for argument in arguments if argument != "--quiet"]
        os.environ[QUIET] = "1"
    try:
        sys.argv[1:] = check_arguments(command, arguments)
        # Hydra tells of an error itself, and ends, unless it is asked for the whole of it.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        if {"--help", "-h"} & set(arguments):
            sys.stdout.write(describe_command(command, ABOUT[command], sys.argv[1:]))
        elif any(argument.split("=")[0] in _TELLING for argument in arguments):
            # Hydra answers what needs the config alone: what it would run is never called, but named after the command.
            def task(config: DictConfig) -> None: ...

            task.__module__ = f"autoprune.{command}"
            hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name=command)(task)()
        else:
            importlib.import_module("autoprune.quiet")
            # By its own name, not as `__main__`: a launcher's processes have to import it.
            importlib.import_module(f"autoprune.{command}").main()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said and makes the exit code
        return tell_error(error, None)
    return 0


def exit_on_error(function: Callable[P, R]) -> Callable[P, R | float]:
    """Make the body of a command tell an error instead of raising it, and end the process with its exit code.

    In a sweep the other jobs go on; how it ended, `SweepEnd` tells, and a sweeper that optimises gets NaN.

    A crash of native code, which raises nothing, prints where in Python every thread was.
    """

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R | float:
        if sys.__stderr__ is not None and not faulthandler.is_enabled():
            faulthandler.enable(sys.__stderr__)
        logging.raiseExceptions = False  # A log that cannot be written ends nothing, and is no reason for a traceback.
        if QUIET in os.environ:
            from autoprune.reporting.console import be_quiet  # The command has imported it; what only tells has not.

            be_quiet()
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # It tells of every retracing and file that it writes.
        try:
            with interrupts.remember():
                return function(*arguments, **options)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except Exception as error:
            logger.debug("where it was raised", exc_info=True)
            folder = run_folder() if HydraConfig.initialized() else None
            # The log of a fault may tell why.
            refused = isinstance(error, AutopruneError) or _machine_refusal(error)
            if folder is not None and refused and _remove_unless_begun(folder):
                folder = None
            code = tell_error(error, folder)
            if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
                sys.exit(code)
            # Noted in the folder of the sweep, as jobs may run in processes of their own.
            given = HydraConfig.get()
            failure = {
                "job": given.job.num,
                "options": overrides(),
                "error": type(error).__name__,
                "message": str(error),
                "exit_code": code,
            }
            with open(Path(given.sweep.dir, _SWEEP_FAILURES), "a") as file:
                file.write(json.dumps(failure) + "\n")
            return math.nan

    return run


def tell_error(error: Exception, folder: Path | None) -> int:
    """Print an error as its kind deserves.

    Args:
        error: what was raised.
        folder: of the run, when something of it is kept.

    Returns:
        The exit code.
    """
    if isinstance(error, HydraException | OmegaConfBaseException):
        sys.stderr.write(f"{describe_hydra_error(error)}\n")
        return REFUSED
    # Also where one of our errors was made of it: a journal on a full disk is not damaged.
    refused = _machine_refusal(error)
    if isinstance(error, AutopruneError) and not refused:
        sys.stderr.write(f"\n{type(error).__name__}: {error}\n")
        return REFUSED
    if refused:
        how = "Nothing was computed yet: mend that and start the command again."
        if folder is not None:
            command = HydraConfig.get().job.name
            how = f"What was finished before is in {folder}. Mend that and start the command again."
            if command not in _NOT_RESUMED and (folder / "settings.json").exists():
                how = (
                    f"What was finished before is kept in {folder}. Mend that and go on with:\n"
                    f"  python -m autoprune.{command} resume={folder}"
                )
        sys.stderr.write(f"\n{refused} {how}\n")
        return REFUSED
    traceback.print_exception(error)
    sys.stderr.write(
        f"\nThis is a fault of autoprune {__version__}, not of yours. Please report it, with all of the above and "
        "the command.\n"
    )
    return FAULT


def _machine_refusal(error: BaseException | None) -> str:
    """A sentence on what the machine refused (disk, permissions); empty for an error of another kind."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None and error.errno in _REFUSALS:
            where, words = f" {error.filename}" if error.filename else "", os.strerror(error.errno)
            return f"The system refused to read or write{where}: {words[0].lower()}{words[1:]}."
        if (
            isinstance(error, sqlite3.OperationalError | OSError | RuntimeError)
            or "tensorflow" in type(error).__module__
        ):
            word = next((word for word in _REFUSING if word in str(error)), None)
            if word is not None:
                return f"The system refused to write: {word[0].lower()}{word[1:]}."
        # What one of our errors was raised beside, it tells of itself; what it was raised from may be the machine's.
        error = error.__cause__ if isinstance(error, AutopruneError) else error.__cause__ or error.__context__
    return ""


def _remove_unless_begun(folder: Path) -> bool:
    """Remove the folder of a run that was refused before it had computed anything; whether that was so.

    One that was begun has been taken back by `resuming.open_run`, if nothing was done in it.
    """
    given = HydraConfig.get().overrides
    if folder.exists():
        if any(option.startswith(("resume=", "hydra.run.", "hydra.sweep.")) for option in (*given.task, *given.hydra)):
            return False  # It may have been there before.
        if any(entry.name != f"{HydraConfig.get().job.name}.log" for entry in folder.iterdir()):
            return False
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # A folder that holds something stays.
        for parent in list(folder.parents)[:3]:
            parent.rmdir()
    return True


class SweepEnd(Callback):
    """Tells at the end of a sweep which jobs failed; `conf/hydra/default.yaml` names it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget what failed in an earlier sweep of the same folder."""
        Path(config.hydra.sweep.dir, _SWEEP_FAILURES).unlink(missing_ok=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell what failed, and end with its exit code."""
        noted = Path(config.hydra.sweep.dir, _SWEEP_FAILURES)
        if not noted.exists():
            return
        failures = sorted((json.loads(line) for line in noted.read_text().splitlines()), key=lambda one: one["job"])
        sys.stderr.write(f"\nOf the sweep in {config.hydra.sweep.dir} failed:\n")
        shared = set(config.hydra.overrides.task)
        for one in failures:
            own = ", ".join(option for option in one["options"] if option not in shared)
            reason = one["message"].strip().partition("\n")[0]
            sys.stderr.write(f"  job {one['job']} ({own}): {one['error']}: {reason}\n")
        sys.stderr.write("The other jobs are done.\n")
        sys.exit(min(one["exit_code"] for one in failures))


def run_folder() -> Path:
    """The folder that Hydra made for this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def overrides() -> list[str]:
    """The options given on the command line."""
    return list(HydraConfig.get().overrides.task)


def save_config(config: DictConfig, folder: Path) -> None:
    """Note what was composed and of which options, as Hydra would: but that writes before a folder is checked."""
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": HydraConfig.get()}), folder / "hydra.yaml")
    OmegaConf.save(OmegaConf.create(overrides()), folder / "overrides.yaml")
