"""Plans as vectors of whole numbers: what searchers that are no agents think in."""

from collections.abc import Sequence

import numpy as np

from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer

Indices = tuple[int, ...]

STEPS = 200  # At most, towards a plan that is guessed to meet the budget.


class Choices:
    """The groups of a problem that have a choice, and plans as one index of a legal width for each of them.

    Args:
        problem: groups with one legal width only are left whole.

    Attributes:
        names: of the groups, in data-flow order.
        ratios: for each group (legal widths,), keep ratios ascending to 1.
        anchor: the plan of the problem's anchor.
    """

    def __init__(self, problem: Problem) -> None:
        legal = problem.legal
        self.names = tuple(group.name for group in problem.groups if len(legal.of(group.name)) > 1)
        self.ratios = tuple(np.array(legal.of(name)) / legal.of(name)[-1] for name in self.names)
        self.anchor: Indices = tuple(legal.of(name).index(legal.nearest(name, problem.anchor)) for name in self.names)

    @property
    def last(self) -> np.ndarray:
        """(groups,) The index of each group's dense width, 1 or more."""
        return np.array([len(ratios) - 1 for ratios in self.ratios])

    def plan(self, indices: Sequence[int]) -> dict[str, float]:
        """Keep ratios by group name."""
        return {
            name: float(ratios[index]) for name, ratios, index in zip(self.names, self.ratios, indices, strict=True)
        }

    def nearest(self, keep_ratios: Sequence[float]) -> Indices:
        """The plan nearest to one keep ratio per group."""
        pairs = zip(self.ratios, keep_ratios, strict=True)
        return tuple(int(np.abs(ratios - wanted).argmin()) for ratios, wanted in pairs)


class Scores:
    """Rewards of plans. The anchor is scored at once, any other when it is first asked for, and none a second time.

    Args:
        problem: what is paid for.
        scorer: has one evaluation left or more.
        choices: of the problem.
    """

    def __init__(self, problem: Problem, scorer: Scorer, choices: Choices) -> None:
        self._objective = problem.objective
        self._scorer = scorer
        self._choices = choices
        # As one ratio for all groups, which guesses of its cost never change.
        anchor = scorer.evaluate(problem.anchor, "anchor")
        self._known: dict[Indices, float] = {choices.anchor: self._objective.reward(anchor)}

    def __contains__(self, indices: Indices) -> bool:
        return indices in self._known

    def __len__(self) -> int:
        return len(self._known)

    @property
    def complete(self) -> bool:
        """Whether every plan there is has been scored."""
        return len(self._known) >= np.prod(self._choices.last + 1.0)

    @property
    def best(self) -> Indices:
        """The plan of the highest reward so far."""
        return max(self._known, key=self._known.__getitem__)

    def of(self, indices: Indices) -> float:
        """The reward of a plan.

        Raises:
            EvaluationsSpent: it has not been scored, and no evaluation is left.
        """
        if indices not in self._known:
            self._known[indices] = self._objective.reward(self._scorer.evaluate(self._choices.plan(indices)))
        return self._known[indices]

    def new_near(self, indices: Indices, generator: np.random.Generator) -> Indices:
        """The plan itself, or the first on a random walk from it that has not been scored and is promising.

        The walk narrows plans that are guessed to miss the budget, where guesses screen, and gives up on guesses after
        a while. At least one plan must be left.
        """
        values, steps = np.array(indices), 0
        while True:
            promising = steps >= STEPS or self._scorer.promising(self._choices.plan(indices))
            if promising and indices not in self:
                return indices
            group = generator.integers(len(values))
            moved = values[group] + (generator.choice([-1, 1]) if promising else -1)
            values[group] = np.clip(moved, 0, self._choices.last[group])
            indices, steps = tuple(values.tolist()), steps + 1
