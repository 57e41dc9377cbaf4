"""What every searcher is given, and what it promises."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from autoprune.evaluation import Evaluator
from autoprune.records import Budget, ChannelGroup, Evaluation
from autoprune.registry import Registry
from autoprune.settings import Constraints


class EvaluationsSpent(Exception):
    """A searcher asked for one evaluation more than it may have."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A model to prune within a budget.

    Attributes:
        groups: the prunable groups, in data-flow order.
        constraints: which widths are legal.
        budget: limits in absolute units.
        dense: the evaluation of the unpruned model.
        anchor: the largest keep ratio that, used for every group, is known to meet the budget. Searchers that need
            somewhere to start, start there.
    """

    groups: tuple[ChannelGroup, ...]
    constraints: Constraints
    budget: Budget
    dense: Evaluation
    anchor: float


class Scorer:
    """Scores plans for one searcher, counts them, and stops it when it has had its share.

    Every call is charged, whether or not the journal knew the answer: searchers are compared at equal evaluations
    asked for, not at equal work.

    Args:
        evaluator: the one way to score a plan.
        searcher: name under which the evaluations are noted.
        evaluations: how many it may have.
        observe: called with each evaluation and its number, from 1.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        searcher: str,
        evaluations: int,
        observe: Callable[[Evaluation, int], None] | None = None,
    ) -> None:
        self.evaluations = evaluations
        self.used = 0
        self.course: list[Evaluation] = []
        self._evaluator = evaluator
        self._searcher = searcher
        self._observe = observe

    @property
    def left(self) -> int:
        """Evaluations that can still be asked for."""
        return self.evaluations - self.used

    def evaluate(self, keep_ratios: float | Mapping[str, float]) -> Evaluation:
        """Score the plan for these keep ratios.

        Raises:
            EvaluationsSpent: none is left.
            PlanError: a ratio or group name cannot be.
        """
        if self.left <= 0:
            raise EvaluationsSpent
        evaluation = self._evaluator.evaluate(keep_ratios)
        self.used += 1
        self._evaluator.journal.add_request(self._searcher, self.used, evaluation.key)
        self.course.append(evaluation)
        if self._observe is not None:
            self._observe(evaluation, self.used)
        return evaluation


def needs_anchor(problem: Problem, scorer: Scorer) -> bool:
    """Whether one evaluation is left and none met the budget: then it is best spent on the anchor, which does."""
    return scorer.left == 1 and best_within(scorer.course, problem.budget) is None


class Searcher(Protocol):
    """Proposes plans until it has none left to propose, or `EvaluationsSpent` is raised."""

    def __call__(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Search. What it finds is in the scorer's course; the same seed gives the same course."""
        ...


SEARCHERS: Registry[Searcher] = Registry("searcher")


def best_within(evaluations: Iterable[Evaluation], budget: Budget) -> Evaluation | None:
    """The most accurate evaluation that meets the budget, of equally accurate ones the fastest; None if none does."""
    feasible = [e for e in evaluations if e.cost is not None and not e.failed and budget.met_by(e.cost)]
    return max(feasible, key=lambda e: (e.accuracy, -e.cost.latency), default=None)
