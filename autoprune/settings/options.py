"""The options of a command, read off its settings class: names, defaults, units, meanings, and who reads them."""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any

_ENTRY = re.compile(r"(\w+)(?: \(([^)]*)\))?: (.*)")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a command.

    Attributes:
        name: as it is written on the command line, such as `target.batch_size`.
        default: of the settings class; an entry of a config group may have another.
        unit: of its value; empty where it is a name or a text.
        meaning: what it sets.
        only: entries of its config group that read it; empty is all of them.
        never: entries of its config group that do not read it.
    """

    name: str
    default: Any
    unit: str
    meaning: str
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The part that it belongs to, such as `target`; empty for an option of the command itself."""
        return self.name.rpartition(".")[0]

    def is_read_by(self, entry: str) -> bool:
        """Whether an entry of its config group, such as `tpu_v5e`, reads it."""
        return entry not in self.never and (not self.only or entry in self.only)


def list_options(schema: type) -> list[Option]:
    """Every option of a settings class, parts in the order of their fields, single options last.

    Raises:
        LookupError: a field has no sentence in the docstring of its class.
    """
    found: list[Option] = []
    for item in fields(schema):
        part = part_type(item)
        if part is not None:
            found += _own_options(part, f"{item.name}.", item.metadata.get("without", ()), default_of(item))
    return [*found, *_own_options(schema)]


def _own_options(schema: type, prefix: str = "", without: tuple[str, ...] = (), made: Any = None) -> Iterator[Option]:
    """The options of a settings class that are no parts, with the defaults of `made` if that is given."""
    told = describe_fields(schema)
    for item in fields(schema):
        if item.name in without or part_type(item) is not None:
            continue
        if item.name not in told:
            raise LookupError(f"The docstring of {schema.__name__} says nothing of '{item.name}'.")
        unit, meaning = told[item.name]
        yield Option(
            name=f"{prefix}{item.name}",
            default=default_of(item) if made is None else getattr(made, item.name),
            unit=unit,
            meaning=meaning,
            only=item.metadata.get("only", ()),
            never=item.metadata.get("never", ()),
        )


def describe_fields(schema: type) -> dict[str, tuple[str, str]]:
    """Unit and sentence of each field, from the section `Attributes` of the docstrings of a class and its parents."""
    told: dict[str, tuple[str, str]] = {}
    for owner in reversed(schema.__mro__):
        _, _, section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")
        for block in re.split(r"\n(?= {4}\w)", "\n" + section.partition("\n\n")[0]):
            entry = _ENTRY.fullmatch(" ".join(block.split()))
            if entry:
                told[entry[1]] = (entry[2] or "", entry[3])
    return told


def default_values(schema: type) -> dict[str, Any]:
    """The defaults of a command as a tree, such as Hydra composes."""
    tree: dict[str, Any] = {}
    for option in list_options(schema):
        place = tree.setdefault(option.group, {}) if option.group else tree
        place[option.name.rpartition(".")[2]] = option.default
    return tree


def default_of(item: Field[Any]) -> Any:
    """The default of a field."""
    return item.default_factory() if item.default_factory is not MISSING else item.default


def part_type(item: Field[Any]) -> type | None:
    """The settings class of a field that is a part, or None for a plain value."""
    made = default_of(item)
    return type(made) if is_dataclass(made) else None


def unread_options(schema: type, chosen: Mapping[str, str]) -> dict[str, Option]:
    """The options by name that chosen entries of config groups do not read.

    Args:
        schema: settings class of the command.
        chosen: entry by config group, such as `{"target": "cpu"}`.
    """
    options = (option for option in list_options(schema) if option.group in chosen)
    return {option.name: option for option in options if not option.is_read_by(chosen[option.group])}
