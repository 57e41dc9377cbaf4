"""What every searcher promises, and the table of them."""

from typing import Protocol

from autoprune.registry import Registry
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer


class Searcher(Protocol):
    """Proposes plans until it has none left to propose, or `EvaluationsSpent` is raised."""

    def __call__(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Search. What it finds is in the scorer's course; the same seed gives the same course."""
        ...


SEARCHERS: Registry[Searcher] = Registry("searcher")
