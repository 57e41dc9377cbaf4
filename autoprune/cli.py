"""What all commands share: a quiet start, near names for mistyped options, and errors without a traceback."""

import difflib
import faulthandler
import importlib
import importlib.resources
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from autoprune.errors import AutopruneError
from autoprune.reporting import interrupts
from autoprune.reporting.run_folder import RunFolder

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # The shell's code for a command ended by Ctrl-C.


def quietly_import(name: str) -> None:
    """Import a module while what its native code prints to standard error is dropped.

    TensorFlow tells of CUDA and oneDNN before it has read its own log level. A failed import still raises.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        importlib.import_module(name)
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


quietly_import("keras")


# A resumed run goes on in its own folder; another one gets a folder that no other run has, however many begin at once.
OmegaConf.register_new_resolver(
    "autoprune.run_folder",
    lambda resume, new: resume or str(RunFolder.make_new(new).path),
    use_cache=True,
    replace=True,
)


def run_command(command: str) -> None:
    """Entry point of a command: check the options on the command line, then let Hydra start it.

    Args:
        command: name of the command's module and of its root config.
    """
    complaint = check_overrides(command, sys.argv[1:])
    if complaint:
        sys.exit(complaint)
    # By its own name, not as `__main__`: a launcher's processes have to import it.
    importlib.import_module(f"autoprune.{command}").main()


def guarded(function: Callable[[], Any]) -> None:
    """Run the body of a command; an error raised on purpose is a message and exit code 2.

    A crash of native code, which raises nothing, prints where in Python every thread was.
    """
    if not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)
    try:
        with interrupts.remembered():
            function()
    except AutopruneError as error:
        logger.debug("where it was raised", exc_info=True)
        sys.stderr.write(f"\n{type(error).__name__}: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


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


def check_overrides(command: str, arguments: Sequence[str]) -> str:
    """A message for the first option that does not exist or whose group has no such entry; empty when all do.

    Hydra's own messages list what there is; this one says what was probably meant.
    """
    given = [argument for argument in arguments if "=" in argument and not argument.startswith(("-", "+", "~"))]
    if not given:
        return ""
    groups = config_groups()
    choices = [tuple(argument.split("=", 1)) for argument in given]
    return _wrong_choice(choices, groups) or _wrong_option(command, choices, groups)


def _wrong_choice(choices: Sequence[tuple[str, str]], groups: Mapping[str, Sequence[str]]) -> str:
    """A message for the first value that cannot be."""
    for key, value in choices:
        if key == "resume" and value != "null" and not Path(value, "settings.json").is_file():
            return f"'{value}' is not a run folder that can be resumed: it has no settings.json."
        group = key.split("@")[0]
        if group == "model" and value.startswith("["):
            return f"One model at a time. A policy of several: python -m autoprune.learn models={value}"
        if group in groups and value not in groups[group] and _is_name(value):
            return f"There is no {group} '{value}'. {_near(value, groups[group])}"
    return ""


def _wrong_option(command: str, choices: Sequence[tuple[str, str]], groups: Mapping[str, Sequence[str]]) -> str:
    """A message for the first name that the command does not have, or an experiment that is for another command."""
    chosen = {key: value for key, value in choices if key in groups}
    try:
        with initialize_config_module("autoprune.conf", version_base="1.3"):
            own = compose(command)
            for key in chosen:
                if key not in own and key != "experiment":
                    return f"There is no option '{key}'. {_near(key, _keys(own))}"
            config = compose(command, overrides=[f"{key}={value}" for key, value in chosen.items()])
    except HydraException:
        return ""  # Whatever it is, Hydra says it better in its own words.
    beyond, experiment = [key for key in config if key not in own], chosen.get("experiment")
    if beyond:
        return (
            f"experiment={experiment} is not for `python -m autoprune.{command}`, which has no {', '.join(beyond)}. "
            f"conf/experiment/{experiment}.yaml says what it is for."
        )
    known = [*_keys(config), *(group for group in groups if group in own or group == "experiment")]
    for key, _ in choices:
        if key not in known and not key.startswith("hydra"):
            if any(key.startswith(f"{free}.") for free in ("agent.options",)):
                return f"'{key}' is not set yet: write +{key}=..."
            return f"There is no option '{key}'. {_near(key, known)}"
    return ""


def config_groups() -> dict[str, list[str]]:
    """Every config group with its entries."""
    root = importlib.resources.files("autoprune.conf")
    return {
        folder.name: sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if _is_config(entry))
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith("__") and folder.name != "hydra"
    }


def _is_config(entry: Any) -> bool:
    return entry.name.endswith(".yaml") and not entry.name.startswith("_")


def _is_name(value: str) -> bool:
    """Whether a value is one plain name, not a sweep or a list."""
    return value not in ("", "null") and all(character.isalnum() or character in "_-" for character in value)


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Every dotted key of a config, parts and leaves."""
    found = []
    for key in config:
        name = f"{prefix}{key}"
        found.append(name)
        child = OmegaConf.select(config, str(key), throw_on_missing=False)
        if isinstance(child, DictConfig):
            found.extend(_keys(child, f"{name}."))
    return found


def _near(wrong: str, known: Sequence[str]) -> str:
    """The near names, and all of them when they are few."""
    known = sorted(set(known))
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    few = f"Known: {', '.join(sorted(known))}." if len(known) <= 20 else "--help lists them all."
    return guess + few
