"""What guesses of cost are for in a search: plans are brought onto the budget, or left unscored, before they cost time.

Guesses come from the evaluator's `Surrogate`. They decide what is scored, never what a plan is said to cost.
"""

from collections.abc import Mapping

import numpy as np

from autoprune.cost.surrogate import Surrogate
from autoprune.records import Budget
from autoprune.searchers.problem import Problem

STEPS = 64  # Plans that are guessed on the way from the widest to the narrowest.


class Steering:
    """Guesses whether plans meet a budget, and brings them there.

    Args:
        surrogate: what guesses.
        problem: groups, legal widths and budget.
        project: whether `plan` changes plans.
        screen: whether `promising` turns plans away.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        problem: Problem,
        *,
        project: bool = False,
        screen: bool = False,
    ) -> None:
        self._surrogate = surrogate
        self._groups = problem.groups
        self._legal = problem.legal
        self._budget = problem.budget
        # Where the fastest plan above a floor of the score is looked for, room in the budget is nothing to use up.
        self._widens = problem.objective.floor is None
        self._project = project
        self._screen = screen

    def promising(self, keep_ratios: Mapping[str, float]) -> bool:
        """Whether a plan may meet the budget: False only when it is guessed to miss it by more than guesses err."""
        if not self._screen or not self._budget.limited or not self._surrogate.ready:
            return True
        return self._overrun(keep_ratios) <= self._margin()

    def plan(self, keep_ratios: Mapping[str, float]) -> Mapping[str, float]:
        """The plan itself, or the widest one like it that is guessed to meet the budget.

        Like it are the plans on the line from keeping everything, through it, to the narrowest: what one group keeps
        more than another stays so, and the budget is used up. Under a reward with a floor of the score, where faster
        is better, no plan is widened. Before the surrogate has learnt, the plan itself.

        Args:
            keep_ratios: of every prunable group; one that is not named keeps everything.
        """
        # Without a limit, every plan could be widened until it is the dense one.
        if not self._project or not self._budget.limited or not self._surrogate.ready:
            return keep_ratios
        target, minimum = -self._margin(), self._legal.minimum
        candidate = keep_ratios
        for shift in np.linspace(-1, 1, STEPS) if self._widens else np.linspace(0, 1, STEPS // 2):
            candidate = {
                group.name: _shifted(keep_ratios.get(group.name, 1.0), shift, minimum) for group in self._groups
            }
            if self._overrun(candidate) <= target:
                return candidate
        return candidate

    def _overrun(self, keep_ratios: Mapping[str, float]) -> float:
        """The largest relative excess over a limit, as guessed."""
        return self._budget.excess(*self._surrogate.predict(self._legal.all_nearest(keep_ratios)))

    def _margin(self) -> float:
        """By how much guesses have been wrong, half of which is on either side."""
        error = guess_error(self._surrogate, self._budget)
        return 0.0 if error is None else error / 2


def guess_error(surrogate: Surrogate, budget: Budget) -> float | None:
    """How wrong guesses of what a budget limits have been, relative to the truth; None before there were any."""
    error = surrogate.error
    return None if error is None else of_limited(budget, error.latency, error.memory)


def of_limited(budget: Budget, latency: float, memory: float | None) -> float:
    """Of a latency's and a memory's error the one of what a budget limits, of both the larger.

    Args:
        budget: the limits. Without one for the memory it is the latency's.
        latency: relative error of a latency.
        memory: of a device memory; None where it is not known: then too it is the latency's.
    """
    if budget.memory is None or memory is None:
        return latency
    return memory if budget.latency is None else max(latency, memory)


def _shifted(ratio: float, shift: float, minimum: float) -> float:
    """A keep ratio on the way to 1, for a shift from 0 to -1, or to the minimum, for one from 0 to 1."""
    return ratio - shift * (1 - ratio) if shift < 0 else ratio - shift * (ratio - minimum)
