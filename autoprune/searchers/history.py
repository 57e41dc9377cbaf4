"""What a searcher has had evaluated: trials, in their order."""

from collections.abc import Iterator
from dataclasses import dataclass

from autoprune.planning import Candidate
from autoprune.records import Evaluation
from autoprune.searchers.objective import Objective


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


class History:
    """The trials of one searcher.

    Args:
        objective: what says which trial is best.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._trials: list[Trial] = []

    def add(self, trial: Trial) -> None:
        """Take in the next trial."""
        self._trials.append(trial)

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def __getitem__(self, index: int) -> Trial:
        return self._trials[index]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Of the trials, in their order; a plan that was proposed twice stands there twice."""
        return [trial.evaluation for trial in self._trials]

    @property
    def sources(self) -> list[str]:
        """Of the trials, in their order."""
        return [trial.source for trial in self._trials]

    @property
    def best(self) -> Trial | None:
        """Best feasible trial; ties go to the lowest latency. None if none is feasible."""
        best = self.objective.best(self.evaluations)
        return next((trial for trial in self._trials if trial.evaluation is best), None)
