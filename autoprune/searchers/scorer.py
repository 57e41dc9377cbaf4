"""What a searcher scores plans with."""

from collections.abc import Callable, Mapping

from autoprune.cost.surrogate import Surrogate
from autoprune.errors import CostError
from autoprune.evaluation import Evaluator
from autoprune.records import CostReport, Evaluation
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

    Attributes:
        course: the evaluations in the order in which they were asked for.
        means: for each of them by what means the searcher came upon the plan.
        costed: plans of which only the cost was asked.
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
        self.means: list[str] = []
        self.costed = 0
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

    def evaluate(
        self, keep_ratios: float | Mapping[str, float], means: str = "", *, steered: bool = True
    ) -> Evaluation:
        """Score the plan for these keep ratios.

        Args:
            keep_ratios: of every group, or by group name.
            means: by what means the searcher came upon the plan, such as `policy`; empty is the searcher's name.
            steered: whether guesses may bring the plan onto the budget first; not where it was costed, or is a probe.

        Raises:
            EvaluationsSpent: none is left.
            PlanError: a ratio or group name cannot be.
        """
        if self.left <= 0:
            raise EvaluationsSpent
        if steered and self._steering is not None and isinstance(keep_ratios, Mapping):
            keep_ratios = self._steering.plan(keep_ratios)
        evaluation = self._evaluator.evaluate(keep_ratios)
        self.used += 1
        self._evaluator.journal.add_request(self._searcher, self.used, evaluation.key)
        self.course.append(evaluation)
        self.means.append(means or self._searcher)
        if self._observe is not None:
            self._observe(evaluation, self.used)
        return evaluation

    def cost(self, keep_ratios: float | Mapping[str, float]) -> CostReport:
        """Only the cost of a plan: a compilation, no evaluation. It is counted apart.

        Raises:
            CostError: the plan cannot be costed.
            PlanError: a ratio or group name cannot be.
        """
        self.costed += 1
        return self._evaluator.cost(keep_ratios)


def needs_anchor(problem: Problem, scorer: Scorer) -> bool:
    """Whether one evaluation is left and none met the budget: then it is best spent on the anchor, which does."""
    return scorer.left == 1 and problem.objective.best(scorer.course) is None


def overrun(problem: Problem, scorer: Scorer, keep_ratios: float | Mapping[str, float]) -> float | None:
    """By how much a plan is over the budget, as a share, by compiling it if there is a limit; None if it cannot be.

    Raises:
        PlanError: a ratio or group name cannot be.
    """
    if not problem.budget.limited:
        return -1.0
    try:
        return problem.budget.overrun(scorer.cost(keep_ratios))
    except CostError:
        return None


def meets_budget(problem: Problem, scorer: Scorer, keep_ratios: float | Mapping[str, float]) -> bool:
    """Whether a plan is within the budget, by compiling it if there is a limit; one that cannot be compiled is not.

    Raises:
        PlanError: a ratio or group name cannot be.
    """
    excess = overrun(problem, scorer, keep_ratios)
    return excess is not None and excess <= 0
