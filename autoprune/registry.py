"""A small named table: refuses duplicates, suggests near names."""

import difflib
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from autoprune.errors import UnknownNameError

K = TypeVar("K")
T = TypeVar("T")


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence naming the near one and all known names, for the end of an error message.

    >>> suggestion("sacc", ["ppo", "sac"])
    "Did you mean 'sac'? Known: ppo, sac."
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"Did you mean '{near[0]}'? " if near else ""
    return f"{guess}Known: {', '.join(known) or 'none'}."


def entering(table: dict[K, T], keys: Iterable[K], refusal: str) -> Callable[[T], T]:
    """Decorator that enters one thing in a table under several keys.

    Args:
        table: is added to.
        keys: classes or names.
        refusal: what to say of a key that is taken, such as "{} has a layer kind already".

    Raises:
        ValueError: a key is taken.
    """

    def enter(entry: T) -> T:
        for key in keys:
            if key in table:
                raise ValueError(refusal.format(getattr(key, "__name__", key)))
            table[key] = entry
        return entry

    return enter


class Registry(Generic[T]):
    """Named entries of one kind, such as importance measures or searchers.

    Args:
        kind: what an entry is, in the singular, for messages ("importance").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._places: dict[str, str] = {}  # Of entries that have not been imported.

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a function or class under `name`.

        Raises:
            ValueError: `name` is taken.
        """
        if name in self:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        return functools.partial(self._entries.setdefault, name)

    def add_lazily(self, name: str, place: str) -> None:
        """Enter what is imported when it is first asked for.

        Args:
            name: name that it is asked for by.
            place: `module:attribute`.
        """
        self._places[name] = place

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            UnknownNameError: there is none; the message suggests the nearest name.
        """
        if name not in self:
            raise UnknownNameError(f"There is no {self.kind} '{name}'. {suggestion(name, self)}")
        if name in self._places:
            module, attribute = self._places.pop(name).split(":")
            self._entries[name] = getattr(importlib.import_module(module), attribute)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._places}))
