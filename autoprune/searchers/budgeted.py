"""What evaluates the proposals of one searcher, enforces its number of evaluations, and remembers its trials."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autoprune.cost.surrogate import Surrogate
from autoprune.errors import CostError
from autoprune.planning import Candidate
from autoprune.records import CostReport, Evaluation
from autoprune.searchers.objective import Objective
from autoprune.searchers.problem import Problem
from autoprune.searchers.projection import BudgetProjector
from autoprune.settings import LimitsSettings


class EvaluationsSpent(Exception):
    """A searcher asked for one evaluation more than it may have."""


@dataclass(frozen=True)
class Proposal:
    """What a searcher wants evaluated.

    Attributes:
        candidate: one option for each dimension.
        source: how the searcher came upon it; empty is the searcher's name.
        project: whether it may be brought onto the budget first (`search.project`); not where its cost is known, or
            where it is a probe.
    """

    candidate: Candidate
    source: str = ""
    project: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One evaluation of a searcher's.

    Attributes:
        number: from 1.
        candidate: that was evaluated: the projected one, where a proposal was projected onto the budget.
        evaluation: what came of it.
        source: how the searcher came upon it, such as `policy` or `exchange`.
        reward: what it is paid.
        seconds: that the searcher took since its last trial, and the evaluation when it was first made. One that
            another searcher made before counts in full: no searcher shall look fast for coming last.
    """

    number: int
    candidate: Candidate
    evaluation: Evaluation
    source: str
    reward: float
    seconds: float


class History(list[Trial]):
    """The trials of one searcher, in their order.

    Args:
        objective: what says which trial is best.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    @property
    def evaluations(self) -> list[Evaluation]:
        """Of the trials, in their order; a plan that was proposed twice stands there twice."""
        return [trial.evaluation for trial in self]

    @property
    def sources(self) -> list[str]:
        """Of the trials, in their order."""
        return [trial.source for trial in self]

    @property
    def best(self) -> Trial | None:
        """Best feasible trial; ties go to the lowest latency. None if none is feasible."""
        best = self.objective.best(self.evaluations)
        return next((trial for trial in self if trial.evaluation is best), None)


class Relaxation(Protocol):
    """The dense model, trained beside itself with a gate from 0 to 1 for every option but the least of a dimension.

    Gates stand one dimension behind the other, in the order of the options. The gate of a width weighs the channels
    that it has more than the one before; that of a branch weighs the branch.
    """

    def train(self, gates: np.ndarray) -> None:
        """One step of the weights at these (gates,)."""
        ...

    def slope(self, gates: np.ndarray) -> np.ndarray:
        """(gates,) gradient of the loss, on images that the weights are not trained on."""
        ...


class Evaluates(Protocol):
    """What makes evaluations: an `Evaluator`, or something like it."""

    def evaluate(self, candidate: Candidate, draw: int = 0) -> Evaluation:
        """Score a candidate, and cost it; each draw above 0 is a score by other images of the training split."""
        ...

    def evaluate_many(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        """Score and cost candidates, side by side where it can; the evaluations in their order, as they come."""
        ...

    def cost(self, candidate: Candidate) -> CostReport:
        """Only its cost."""
        ...

    def relax(self, seed: int) -> Relaxation:
        """The dense model with gates, to be trained beside it."""
        ...

    def note(self, searcher: str, number: int, evaluation: Evaluation) -> None:
        """Remember that this was a searcher's evaluation of this number."""
        ...


class BudgetedEvaluator:
    """Evaluates candidates for one searcher until its evaluations are spent.

    Every candidate is charged, whether or not the journal knew the answer: searchers are compared at equal evaluations
    asked for, not at equal work.

    Args:
        evaluator: what makes the evaluations.
        problem: search space, objective and budget.
        name: of the searcher, under which the evaluations are noted.
        limits: how many evaluations it may have, whether proposals are brought onto the budget and whether `promising`
            turns candidates away, by predictions, and how many are proposed at a time.
        surrogate: predicts costs, and learns from every cost that is found here; None predicts nothing.
        observe: called with each trial.

    Attributes:
        problem, surrogate: as given.
        evaluations, batch: how many it may have, and how many are proposed at a time by searchers that learn from each.
        history: the trials.
        costed: candidates of which only the cost was asked.
        again: evaluations of trials' candidates by other draws, see `evaluate_again`.
        projector: predicts whether candidates meet the budget.
    """

    def __init__(
        self,
        evaluator: Evaluates,
        problem: Problem,
        *,
        name: str,
        limits: LimitsSettings,
        surrogate: Surrogate | None = None,
        observe: Callable[[Trial], None] | None = None,
    ) -> None:
        self.problem = problem
        self.evaluations, self.batch = limits.evaluations, limits.batch
        self.surrogate = surrogate
        self.history = History(problem.objective)
        self.costed = 0
        self.again: dict[Candidate, list[Evaluation]] = {}
        self.projector = BudgetProjector(problem, surrogate)
        self._evaluator = evaluator
        self._name = name
        self._project = problem.space.depth is not None if limits.project is None else limits.project
        self._screen = limits.screen
        self._observe = observe
        self._since = time.perf_counter()

    @property
    def used(self) -> int:
        """Evaluations that have been made."""
        return len(self.history)

    @property
    def left(self) -> int:
        """Evaluations that can still be asked for."""
        return self.evaluations - self.used

    def evaluate_many(self, proposals: Sequence[Proposal]) -> list[Trial]:
        """Evaluate proposals in their order; of more than are left only the first.

        Raises:
            EvaluationsSpent: none is left.
        """
        if self.left <= 0:
            raise EvaluationsSpent
        proposals = proposals[: self.left]
        # All at once: what one teaches the surrogate shall not depend on how many are evaluated side by side.
        candidates = [
            self.projector.project(proposal.candidate) if self._project and proposal.project else proposal.candidate
            for proposal in proposals
        ]
        trials = []
        thought = time.perf_counter() - self._since
        for candidate, proposal, evaluation in zip(
            candidates, proposals, self._evaluator.evaluate_many(candidates), strict=True
        ):
            if evaluation.cost is not None:
                self._teach(candidate, evaluation.cost)
            trial = Trial(
                number=self.used + 1,
                candidate=candidate,
                evaluation=evaluation,
                source=proposal.source or self._name,
                reward=self.problem.objective.reward(evaluation),
                seconds=thought + evaluation.seconds,
            )
            self._evaluator.note(self._name, trial.number, evaluation)
            self.history.append(trial)
            if self._observe is not None:
                self._observe(trial)
            thought = 0.0
            trials.append(trial)
        self._since = time.perf_counter()
        return trials

    def relax(self, seed: int) -> Relaxation:
        """The dense model with gates, to be trained beside it. Nothing is charged but the time, to the next trial.

        Raises:
            SettingsError: the backend, or the model, has no gradients.
        """
        return self._evaluator.relax(seed)

    def evaluate_again(self, trial: Trial) -> None:
        """One more evaluation of a trial's candidate, by another draw, free of charge: for searches that have ended."""
        found = self.again.setdefault(trial.candidate, [])
        found.append(self._evaluator.evaluate(trial.candidate, len(found) + 1))

    def cost(self, candidate: Candidate) -> CostReport:
        """Only the cost of a candidate: a compilation, no evaluation. It is counted apart.

        Raises:
            CostError: the candidate cannot be costed.
        """
        self.costed += 1
        cost = self._evaluator.cost(candidate)
        self._teach(candidate, cost)
        return cost

    def _teach(self, candidate: Candidate, cost: CostReport) -> None:
        if self.surrogate is not None:
            self.surrogate.observe(self.problem.space.values(candidate), cost)

    def excess(self, candidate: Candidate) -> float | None:
        """How far a candidate is over the budget, as a share, by compiling it if there is a limit.

        None if it cannot be costed; without a limit -1.
        """
        if not self.problem.budget.limited:
            return -1.0
        try:
            return self.problem.budget.overrun(self.cost(candidate))
        except CostError:
            return None

    def meets_budget(self, candidate: Candidate) -> bool:
        """Whether a candidate is within the budget, by compiling it; one that cannot be costed is not."""
        excess = self.excess(candidate)
        return excess is not None and excess <= 0

    def promising(self, candidate: Candidate) -> bool:
        """Whether a candidate is worth an evaluation, where predictions screen (`search.screen`)."""
        return not self._screen or self.projector.predicts_within(candidate)

    @property
    def needs_anchor(self) -> bool:
        """Whether one evaluation is left and none met the budget: then it is best spent on the anchor, which does."""
        return self.left == 1 and self.history.best is None
