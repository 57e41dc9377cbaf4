"""Libraries that only some searchers and agents need: looked for before anything is trained, imported when needed."""

from dataclasses import dataclass

from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer
from autoprune.searchers.searcher import SEARCHERS, Searcher
from autoprune.settings.extras import extra

EXTRA = "search"  # The optional extra that brings them.


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
        extra(self.library, f"searcher={self.name}", EXTRA)

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
