"""What `--help` of a command says: every option with its meaning, default and unit."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from autoprune.options import SCHEMAS, compose_command, config_groups
from autoprune.settings.options import list_options

_HOW = """\
An entry of a group is chosen by its name (model=vgg16), an option set by its path (target.batch_size=8). Lists are
written [a,b], null is nothing; -m runs every combination of values with commas between them (-m seed=0,1). The values
below are the defaults of the entries chosen; units stand in parentheses. Flags: --quiet shows no progress, --cfg job
prints all settings as YAML, --version the version, --hydra-help what Hydra adds."""


def describe_command(command: str, about: str, arguments: Sequence[str]) -> str:
    """The help of a command.

    Args:
        command: its name.
        about: what it does, in one sentence.
        arguments: of the command line, checked; overrides among them show in the values.

    Raises:
        HydraException: Hydra cannot read an override.
    """
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    config, entries = compose_command(command, overrides)
    lines, group = [f"python -m autoprune.{command}: {about}", "", *_wrap(_HOW, "")], None
    for option in list_options(SCHEMAS[command]):
        entry = entries.get(option.group, "")
        if not option.is_read_by(entry):
            continue
        if option.group != group:
            group = option.group
            lines += ["", *(_describe_group(group, entry, "entries") if group in entries else ())]
        unit = f" ({option.unit})" if option.unit else ""
        lines += [f"  {option.name}={write_value(OmegaConf.select(config, option.name))}{unit}"]
        lines += _wrap(option.meaning.replace("`", ""), " " * 6)
    if "experiment" in entries:
        lines += ["", *_describe_group("experiment", entries["experiment"], "named sets of choices")]
    return "\n".join(lines) + "\n"


_COMPLETION = """\
_autoprune() {
    local words="${COMP_WORDS[*]}" word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"
    local command key
    case "$words" in
%s
    esac
    # Bash splits words at "=": what stands before it says which values there are.
    if [ "$word" = "=" ]; then key="$before" word=""
    elif [ "$before" = "=" ]; then key="${COMP_WORDS[COMP_CWORD-2]}"
    fi
    case "${command:+$key}" in
        "") case "$command" in
            "") COMPREPLY=($(compgen -W "%s" -- "$word"));;
%s
        esac; compopt -o nospace;;
%s
    esac
}
complete -F _autoprune autoprune
"""


def completion_script(commands: Sequence[str]) -> str:
    """What a shell (bash, or zsh after `bashcompinit`) evaluates to complete commands, options and entries of groups.

    Args:
        commands: names of all commands.
    """
    groups = config_groups()
    flags = "--help --quiet --cfg --version"
    chosen = "\n".join(f'        *" {name} "*) command={name};;' for name in commands)
    options = {name: [option.name for option in list_options(SCHEMAS[name])] for name in commands}
    listed = "\n".join(
        f'            {name}) COMPREPLY=($(compgen -W "{flags} '
        f"{' '.join(f'{one}=' for one in (*dict.fromkeys(o.split('.')[0] for o in names), *names))}"
        '" -- "$word"));;'
        for name, names in options.items()
    )
    entries = "\n".join(
        f'        {group}) COMPREPLY=($(compgen -W "{" ".join(names)}" -- "$word"));;'
        for group, names in groups.items()
    )
    return _COMPLETION % (chosen, " ".join(commands), listed, entries)


def _describe_group(group: str, entry: str, what: str) -> list[str]:
    return [f"{group}={entry or 'null'}", *_wrap(f"{what}: {', '.join(config_groups()[group])}", " " * 6)]


def write_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, list):
        return f"[{','.join(map(write_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{write_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)


def _wrap(text: str, indent: str) -> list[str]:
    width = min(shutil.get_terminal_size((120, 24)).columns, 120)
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
