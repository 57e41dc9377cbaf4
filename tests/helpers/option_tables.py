"""Writes the tables of options in `conf/README.md`: `python tests/helpers/option_tables.py`."""

from collections import defaultdict
from pathlib import Path

from omegaconf import OmegaConf

from autoprune.cli import ABOUT
from autoprune.option_help import write_value
from autoprune.options import SCHEMAS, config_groups
from autoprune.settings.options import Option, list_options

CONF = Path(__file__).parents[2] / "conf"
FILE = CONF / "README.md"
BEGIN, END = "<!-- options: made by tests/helpers/option_tables.py -->\n", "<!-- end of options -->\n"


def render() -> str:
    """The tables: one for each part, then one for each command."""
    parts, users = defaultdict(dict), defaultdict(lambda: defaultdict(set))
    own = {}
    for command, schema in SCHEMAS.items():
        options = list_options(schema)
        own[command] = [option for option in options if not option.group]
        for option in options:
            if option.group:
                parts[option.group].setdefault(option.name, option)
                users[option.group][option.name].add(command)
    sections = []
    for part, options in parts.items():
        commands = set.union(*users[part].values())
        lines = [f"### {part}\n", f"Of {_listed(sorted(commands, key=list(SCHEMAS).index))}.\n"]
        if part in config_groups():
            lines += [_entries(part), ""]
        notes = {name: commands - users[part][name] for name in options}
        lines.append(_table(options.values(), notes))
        sections.append("\n".join(lines))
    for command, options in own.items():
        about = ABOUT[command][0].upper() + ABOUT[command][1:]
        sections.append(f"### python -m autoprune.{command}\n\n{about}.\n\n{_table(options, {})}")
    return "\n\n".join(sections) + "\n"


def _entries(group: str) -> str:
    """The entries of a config group, with what each changes."""
    told = []
    for entry in config_groups()[group]:
        said = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{entry}.yaml"))
        changes = [f"`{name}={write_value(value)}`" for name, value in said.items() if (name, value) != ("name", entry)]
        told.append(f"`{entry}` ({', '.join(changes)})" if changes else f"`{entry}`")
    return f"Entries, with what they change: {', '.join(told)}."


def _table(options: list[Option], notes: dict[str, set[str]]) -> str:
    lines = ["| option | default | unit | meaning |", "|---|---|---|---|"]
    for option in options:
        meaning = option.meaning
        if option.only:
            meaning += f" Only with {_listed(option.only)}."
        if option.never:
            meaning += f" Not with {_listed(option.never)}."
        if notes.get(option.name):
            meaning += f" Not an option of {_listed(sorted(notes[option.name]))}."
        lines.append(f"| `{option.name}` | `{write_value(option.default)}` | {option.unit} | {meaning} |")
    return "\n".join(lines)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> None:
    """Write the tables between their marks."""
    before, _, rest = FILE.read_text().partition(BEGIN)
    FILE.write_text(before + BEGIN + "\n" + render() + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
