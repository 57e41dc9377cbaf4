"""What a searcher remembers of its proposals, so that none is evaluated twice."""

from collections.abc import Collection

import numpy as np

from autoprune.planning import Candidate, SearchSpace
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal
from autoprune.searchers.searcher import Proposals

STEPS = 200  # At most, towards a candidate that is predicted to meet the budget.


class Memory(dict[Candidate, float]):
    """Rewards by the candidate that was proposed.

    Args:
        space: search space that the candidates come from.
        evaluator: says what is promising.
    """

    def __init__(self, space: SearchSpace, evaluator: BudgetedEvaluator) -> None:
        super().__init__()
        self.space = space
        self._evaluator = evaluator

    @property
    def complete(self) -> bool:
        """Whether every candidate there is has been evaluated."""
        return len(self) >= self.space.count

    @property
    def best(self) -> Candidate:
        """The candidate of the highest reward so far, the first of equal ones."""
        return max(self, key=self.__getitem__)

    def learn(self, proposals: list[Proposal]) -> Proposals:
        """Propose candidates and remember what they are paid."""
        trials = yield proposals
        for proposal, trial in zip(proposals, trials, strict=True):
            self[proposal.candidate] = trial.reward

    def walk(
        self, candidate: Candidate, generator: np.random.Generator, underway: Collection[Candidate] = ()
    ) -> Candidate:
        """The candidate itself, or the first on a random walk from it that is new and promising.

        The walk keeps less where candidates are predicted to miss the budget, and gives up on predictions after a
        while. At least one candidate must be new: neither known nor under way.
        """
        values, steps, free = self.space.canonical(candidate).tolist(), 0, self.space.free
        candidate = tuple(values)
        while True:
            promising = steps >= STEPS or self._evaluator.promising(candidate)
            if promising and candidate not in self and candidate not in underway:
                return candidate
            position = free[generator.integers(len(free))]
            moved = values[position] + (generator.choice([-1, 1]) if promising else -1)
            values[position] = int(np.clip(moved, 0, self.space.full[position]))
            candidate, steps = tuple(self.space.canonical(values).tolist()), steps + 1
