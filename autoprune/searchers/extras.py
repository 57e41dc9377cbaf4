"""Libraries that only some searchers and agents need: looked for before anything is trained, imported when needed."""

import importlib
from dataclasses import dataclass
from types import ModuleType

from autoprune.errors import SettingsError
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer
from autoprune.searchers.searcher import SEARCHERS, Searcher

INSTALL = 'pip install "autoprune[search]"'


def extra(module: str, needed_by: str) -> ModuleType:
    """A library of the extra `search`.

    Args:
        module: what is imported, such as `optuna`.
        needed_by: the option that asks for it, such as `searcher=bayes`.

    Raises:
        SettingsError: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{needed_by} needs {module}, which cannot be imported ({error}). Try: {INSTALL}"
        ) from error


@dataclass(frozen=True)
class NeedsExtra:
    """A searcher that is always in the table and runs where its library is installed.

    Attributes:
        name: of the searcher.
        library: that it imports.
        searcher: the searcher itself.
    """

    name: str
    library: str
    searcher: Searcher

    def check(self) -> None:
        """Refuse a searcher whose library is missing.

        Raises:
            SettingsError: it is; the message has the command that installs it.
        """
        extra(self.library, f"searcher={self.name}")

    def __call__(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Search, where the library is installed."""
        self.check()
        self.searcher(problem, scorer, seed)


def checked_searcher(name: str) -> Searcher:
    """The searcher of that name, able to run.

    Raises:
        SettingsError: a library that it needs is missing.
        UnknownNameError: there is none.
    """
    searcher = SEARCHERS.get(name)
    if isinstance(searcher, NeedsExtra):
        searcher.check()
    return searcher
