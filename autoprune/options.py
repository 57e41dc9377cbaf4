"""The options of a command line, looked at before anything slow is imported: their names, their values, their paths."""

import difflib
import importlib.resources
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from autoprune.errors import SettingsError
from autoprune.settings import (
    CompareSettings,
    ExportSettings,
    FinetuneSettings,
    LearnSettings,
    MeasureSettings,
    ReplaySettings,
    ReportSettings,
    SearchSettings,
    from_config,
)
from autoprune.settings.extras import extra
from autoprune.settings.options import default_values, unread_options

SCHEMAS: Mapping[str, type] = {
    "search": SearchSettings,
    "replay": ReplaySettings,
    "learn": LearnSettings,
    "compare": CompareSettings,
    "finetune": FinetuneSettings,
    "export": ExportSettings,
    "measure": MeasureSettings,
    "report": ReportSettings,
}
# Every root config of `conf/` starts from the defaults of its settings class.
for _command, _schema in SCHEMAS.items():
    ConfigStore.instance().store(_command, default_values(_schema), group="options", package="_global_")

# Options whose value is a file or a folder, or may be a list of them.
_LISTS = ("model.path", "models", "run")
_PATHS = (
    *("data.path", "data.dir", "policy", "plan", "teacher", "resume", "model.weights"),
    *("hydra.run.dir", "hydra.sweep.dir", *_LISTS),
)
_QUOTES = "'\""
_SWEEPING = ("-m", "--multirun", "hydra.mode=MULTIRUN")
_FLAGS = (
    *(
        "--help",
        "--quiet",
        "--hydra-help",
        "--version",
        "--cfg",
        "--resolve",
        "--package",
        "--run",
        "--multirun",
        "--info",
    ),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
)
# Of Hydra: module of the plugin, and the optional extra that brings it.
_PLUGINS = {
    ("hydra/launcher", "ray"): ("hydra_ray_launcher", "ray"),
    ("hydra/launcher", "joblib"): ("hydra_joblib_launcher", "joblib"),
    ("hydra/sweeper", "optuna"): ("hydra_optuna_sweeper", "sweeper"),
}
_SHORT_FLAGS = ("-h", "-c", "-p", "-r", "-m", "-cp", "-cn", "-cd", "-i")


def check_arguments(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command as Hydra can read them, after what can be known to be wrong has been refused.

    Raises:
        SettingsError: an option does not exist, cannot be read, or has a value that it cannot have.
    """
    sweeping = any(argument in _SWEEPING for argument in arguments)
    runs = [argument.partition("=")[2] for argument in arguments if argument.startswith("run=")]
    if command == "report" and len(runs) > 1:  # For Hydra the last one would count.
        arguments = [argument for argument in arguments if not argument.startswith("run=")]
        arguments = [*arguments, f"run=[{','.join(map(_quote, runs))}]"]
    readable = []
    for argument in arguments:
        flag = argument.split("=")[0]
        if flag.startswith("-") and flag not in (*_FLAGS, *_SHORT_FLAGS):
            raise SettingsError(f"There is no option '{flag}'. {_suggest(flag, _FLAGS)}")
        key, path = _split_path(argument)
        # The shell leaves `~` as it is after `=`.
        readable.append(f"{key}={os.path.expanduser(path)}" if key else argument)
    complaint = check_overrides(command, readable)
    if complaint:
        raise SettingsError(complaint)
    readable = [_quote_path(argument, sweeping) for argument in readable]
    # With flags of Hydra's own the config may be another one, or no single one.
    if any(argument.startswith("-") for argument in readable):
        return readable
    try:
        config, _ = compose_command(command, readable)
    except HydraException as error:
        raise SettingsError(describe_hydra_error(error)) from error
    # With `resume` all settings are the folder's; else they are made once before the command does.
    if OmegaConf.select(config, "resume") is None:
        with suppress(OmegaConfBaseException):  # An interpolation of what Hydra knows of a job that runs.
            from_config(config, SCHEMAS[command])
    return readable


def describe_hydra_error(error: Exception) -> str:
    """What Hydra says of an error, and how values are quoted where it could not read one."""
    words = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        words += f"\n{error.__cause__}"
    if isinstance(error, OverrideParseException):
        words += (
            "\nA value with spaces, commas, brackets, = or other signs needs quotes within those of the shell: "
            "'option=\"a value, so written\"', in lists 'option=[\"a value\",another]'."
        )
    return words


def _split_path(argument: str) -> tuple[str, str]:
    """Key and value of an option whose value is a path as it was typed; empty for any other."""
    key, _, value = argument.partition("=")
    typed = value not in ("", "null") and value[0] not in _QUOTES and "${" not in value
    return (key, value) if typed and key.lstrip("+") in _PATHS else ("", "")


def _quote_path(argument: str, sweeping: bool) -> str:
    """The argument with its path in quotes: Hydra has other uses for many signs that occur in names of files."""
    key, value = _split_path(argument)
    if not key:
        return argument
    if not os.path.exists(value):
        if sweeping and ("," in value or "(" in value):
            return argument  # Several values, or a sweep in Hydra's words.
        if key.lstrip("+") in _LISTS and value[0] == "[" and value[-1] == "]":
            if any(sign in value for sign in _QUOTES):
                return argument  # Whoever quotes some of it quotes all that needs it.
            items = [_quote(item.strip()) for item in value[1:-1].split(",") if item.strip()]
            return f"{key}=[{','.join(items)}]"
    return f"{key}={_quote(value)}"


def _quote(path: str) -> str:
    return QuotedString(os.path.expanduser(path), Quote.single).with_quotes()


def check_overrides(command: str, arguments: Sequence[str]) -> str:
    """A message for the first option that does not exist or whose group has no such entry; empty when all do.

    Hydra's own messages list what there is; this one says what was probably meant.
    """
    given = [argument for argument in arguments if "=" in argument and not argument.startswith(("-", "+", "~"))]
    if not given:
        return ""
    groups = config_groups()
    choices = [(key, value) for key, _, value in (argument.partition("=") for argument in given)]
    for key, value in choices:
        if key == "resume" and value != "null" and not Path(value.strip(_QUOTES), "settings.json").is_file():
            return f"'{value}' is not a run folder that can be resumed: it has no settings.json."
        if (plugin := _PLUGINS.get((key, value))) is not None:
            extra(f"hydra_plugins.{plugin[0]}", f"{key}={value}", plugin[1])
        group = key.split("@")[0]
        if group == "model" and value.startswith("["):
            return f"One model at a time. A policy of several: python -m autoprune.learn models={value}"
        # One plain name, not a sweep or a list.
        plain = value not in ("", "null") and all(character.isalnum() or character in "_-" for character in value)
        if group in groups and value not in groups[group] and plain:
            return f"There is no {group} '{value}'. {_suggest(value, groups[group])}"
    return _wrong_option(command, choices, groups)


def _wrong_option(command: str, choices: Sequence[tuple[str, str]], groups: Mapping[str, Sequence[str]]) -> str:
    """A message for the first name that the command does not have or that the chosen entry of its group does not read.

    Before that, for an experiment that is for another command.
    """
    chosen = {key: value for key, value in choices if key in groups}
    try:
        own, entries = compose_command(command)
        for key in chosen:
            if key not in own and key != "experiment":
                return f"There is no option '{key}'. {_suggest(key, _keys(own))}"
        config = own
        if chosen:
            config, entries = compose_command(command, [f"{key}={value}" for key, value in chosen.items()])
    except HydraException:
        return ""  # Whatever it is, Hydra says it better in its own words.
    beyond, experiment = [str(key) for key in config if key not in own], chosen.get("experiment")
    if beyond:
        return (
            f"experiment={experiment} is not for `python -m autoprune.{command}`, which has no {', '.join(beyond)}. "
            f"conf/experiment/{experiment}.yaml says what it is for."
        )
    known = [*_keys(config), *(group for group in groups if group in own or group == "experiment")]
    unknown = [key for key, _ in choices if key not in known and not key.startswith("hydra")]
    if unknown:
        key = unknown[0]
        missing = f"'{key}' is not set yet: write +{key}=..."
        return missing if key.startswith("agent.options.") else f"There is no option '{key}'. {_suggest(key, known)}"
    unread = unread_options(SCHEMAS[command], entries)
    for key, value in choices:
        if key in unread and value != "null":
            group, others = unread[key].group, " or ".join(unread[key].only)
            wanted = f"given with {group}={others}" if others else "left out"
            return f"{key} must be {wanted}; {group}={entries[group]} does not read it. Received: {value}"
    return ""


def compose_command(command: str, overrides: Sequence[str] = ()) -> tuple[DictConfig, dict[str, str]]:
    """The config of a command, and the chosen entry of each of its config groups, empty for none.

    Raises:
        HydraException: Hydra cannot read an option.
    """
    with initialize_config_module("autoprune.conf", version_base="1.3"):
        config = compose(command, overrides=list(overrides), return_hydra_config=True)
    choices = config.hydra.runtime.choices.items()
    entries = {group: entry or "" for group, entry in choices if not group.startswith("hydra")}
    OmegaConf.set_readonly(config, False)
    with open_dict(config):
        del config["hydra"]
    return config, entries


def config_groups() -> dict[str, list[str]]:
    """Every config group with its entries."""
    groups = {}
    for folder in importlib.resources.files("autoprune.conf").iterdir():
        if folder.is_dir() and not folder.name.startswith("__") and folder.name != "hydra":
            files = [entry.name for entry in folder.iterdir() if not entry.name.startswith("_")]
            groups[folder.name] = sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))
    return groups


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Every dotted key of a config, parts and leaves."""
    found = []
    for key in config:
        name = f"{prefix}{key!s}"
        found.append(name)
        child = OmegaConf.select(config, str(key), throw_on_missing=False)
        if isinstance(child, DictConfig):
            found.extend(_keys(child, f"{name}."))
    return found


def _suggest(wrong: str, known: Sequence[str]) -> str:
    """The near names, and all of them when they are few."""
    known = sorted(set(known))
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    few = f"Known: {', '.join(sorted(known))}." if len(known) <= 20 else "--help lists them all."
    return guess + few
