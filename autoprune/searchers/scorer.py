"""What a searcher scores plans with."""

from collections.abc import Callable, Mapping

from autoprune.cost.surrogate import Surrogate
from autoprune.evaluation import Evaluator
from autoprune.records import Evaluation
from autoprune.searchers.problem import Problem
from autoprune.searchers.steering import Steering


class EvaluationsSpent(Exception):
    """A searcher asked for one evaluation more than it may have."""


class Scorer:
    """Scores plans for one searcher, counts them, and stops it when it has had its share.

    Every call is charged, whether or not the journal knew the answer: searchers are compared at equal evaluations
    asked for, not at equal work.

    Args:
        evaluator: the one way to score a plan.
        searcher: name under which the evaluations are noted.
        evaluations: how many it may have.
        observe: called with each evaluation and its number, from 1.
        steering: brings plans onto the budget before they are scored; None scores them as they are proposed. One keep
            ratio for all groups is always scored as it is.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        searcher: str,
        evaluations: int,
        observe: Callable[[Evaluation, int], None] | None = None,
        steering: Steering | None = None,
    ) -> None:
        self.evaluations = evaluations
        self.used = 0
        self.course: list[Evaluation] = []
        self._evaluator = evaluator
        self._searcher = searcher
        self._observe = observe
        self._steering = steering

    @property
    def surrogate(self) -> Surrogate | None:
        """What guesses the cost of plans, if anything does."""
        return getattr(self._evaluator, "surrogate", None)

    def promising(self, keep_ratios: Mapping[str, float]) -> bool:
        """Whether a plan is worth an evaluation, as far as guesses of its cost can tell."""
        return self._steering is None or self._steering.promising(keep_ratios)

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
        if self._steering is not None and isinstance(keep_ratios, Mapping):
            keep_ratios = self._steering.plan(keep_ratios)
        evaluation = self._evaluator.evaluate(keep_ratios)
        self.used += 1
        self._evaluator.journal.add_request(self._searcher, self.used, evaluation.key)
        self.course.append(evaluation)
        if self._observe is not None:
            self._observe(evaluation, self.used)
        return evaluation


def needs_anchor(problem: Problem, scorer: Scorer) -> bool:
    """Whether one evaluation is left and none met the budget: then it is best spent on the anchor, which does."""
    return scorer.left == 1 and problem.objective.best(scorer.course) is None
