"""What predictions of cost are for in a search: candidates are brought onto the budget, or not evaluated at all.

Predictions come from a `Surrogate`. They decide what is evaluated, never what a plan is said to cost.
"""

import numpy as np

from autoprune.cost.surrogate import Surrogate
from autoprune.planning import Candidate
from autoprune.records import Budget
from autoprune.searchers.problem import Problem

STEPS = 64  # Candidates that are predicted on the way from the widest to the narrowest.


class BudgetProjector:
    """Predicts whether candidates meet the budget of a problem, and brings them onto it.

    Args:
        problem: search space and budget.
        surrogate: what predicts; None predicts nothing.
    """

    def __init__(self, problem: Problem, surrogate: Surrogate | None) -> None:
        self._space = problem.space
        self._budget = problem.budget
        self._surrogate = surrogate
        # Where the fastest plan above a floor of the score is looked for, room in the budget is nothing to use up.
        shifts = np.linspace(-1, 1, STEPS) if problem.objective.floor is None else np.linspace(0, 1, STEPS // 2)
        self._shifts = shifts

    def predicts_within(self, candidate: Candidate) -> bool:
        """Whether a candidate may meet the budget: False only if it is predicted to miss it by more than errors are."""
        predicted = self._predict(np.array([candidate]))
        return predicted is None or bool(predicted[0][0] <= predicted[1])

    def expects_within(self, candidate: Candidate) -> bool | None:
        """Whether a candidate is predicted to meet the budget, also if predictions err; None where nothing predicts."""
        predicted = self._predict(np.array([candidate]))
        return None if predicted is None else bool(predicted[0][0] <= -predicted[1])

    def project(self, candidate: Candidate) -> Candidate:
        """The candidate itself, or the widest one like it that is predicted to meet the budget.

        Like it are the candidates on the line from keeping everything, through it, to the least: what one dimension
        keeps more than another stays so, and the budget is used up. Under a reward with a floor of the score, where
        faster is better, none is widened. Before the surrogate has learnt, and without a limit, under which every
        candidate could be widened until it is the full one, it is the candidate itself.
        """
        return tuple(self.project_all(np.array([candidate]))[0].tolist())

    def project_all(self, candidates: np.ndarray, every: int = 1) -> np.ndarray:
        """(m, dimensions) As `project`, of (m, dimensions) candidates at once.

        Args:
            candidates: (m, dimensions) options, each as `project` takes it.
            every: which candidates of a line are looked at: each, or every other, third or so on.
        """
        if not len(candidates):
            return candidates
        shifts = self._shifts[every - 1 :: every]
        lines = np.stack([self._space.shift(tuple(row), shifts) for row in candidates.tolist()])
        predicted = self._predict(lines.reshape(-1, len(self._space)))
        if predicted is None:
            return candidates
        excess, margin = predicted
        within = excess.reshape(lines.shape[:2]) <= -margin
        first = np.where(within.any(1), within.argmax(1), lines.shape[1] - 1)
        return lines[np.arange(len(lines)), first]

    def _predict(self, candidates: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Predictions of the largest relative excess over a limit, and how large errors have been.

        Args:
            candidates: (m, dimensions).

        Returns:
            (m,) excesses, and the margin on either side of 0 that errors ask for: half of their size. None where
            nothing predicts, or nothing is limited.
        """
        surrogate = self._surrogate
        if surrogate is None or not surrogate.ready or not self._budget.limited:
            return None
        error = prediction_error(surrogate, self._budget)
        excess = self._budget.excess(*surrogate.predict_all(self._space.values(candidates)))
        return np.broadcast_to(excess, len(candidates)), 0.0 if error is None else error / 2


def prediction_error(surrogate: Surrogate, budget: Budget) -> float | None:
    """How wrong predictions of what a budget limits have been, relative to the truth; None before there were any."""
    error = surrogate.error
    return None if error is None else error_of_limited(budget, error.latency, error.memory)


def error_of_limited(budget: Budget, latency: float, memory: float | None) -> float:
    """The error of what a budget limits; of both the larger.

    Args:
        budget: the limits. Without one for the memory it is the latency's.
        latency: relative error of a latency.
        memory: of a device memory; None where it is not known: then too it is the latency's.
    """
    if budget.memory is None or memory is None:
        return latency
    return memory if budget.latency is None else max(latency, memory)
