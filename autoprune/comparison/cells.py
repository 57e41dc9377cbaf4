"""The cells of a comparison: one searcher at one budget with one seed, and what it found."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from autoprune.evaluation.journal import evaluation_to_json
from autoprune.records import Evaluation
from autoprune.searchers import BudgetedEvaluator
from autoprune.searchers.choice import find_finalists
from autoprune.searchers.hand_set import is_hand_set
from autoprune.settings import CompareSettings


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One search of a comparison.

    Attributes:
        searcher: as in `CompareSettings.searchers`.
        budget: as in `CompareSettings.budgets`.
        seed: of the search; None for what is set by hand, which searches once.
        seeds: with which its finalists are fine-tuned.
    """

    searcher: str
    budget: str
    seed: int | None
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Under which its evaluations are noted, such as `rl@0.5/0`."""
        return f"{self.searcher}@{self.budget}" + ("" if self.seed is None else f"/{self.seed}")


def cells_of(settings: CompareSettings) -> Iterator[Cell]:
    """Every cell: all searchers and budgets with the first seed, then with the next."""
    for number, seed in enumerate(settings.seeds):
        for budget in settings.budgets:
            for searcher in settings.searchers:
                if not is_hand_set(searcher):
                    yield Cell(searcher=searcher, budget=budget, seed=seed, seeds=(seed,))
                elif number == 0:
                    yield Cell(searcher=searcher, budget=budget, seed=None, seeds=tuple(settings.seeds))


def cell_names(settings: CompareSettings, searcher: str, budget: str) -> list[str]:
    """Names of the cells of one searcher at one budget, one for each seed that it searches with."""
    return [cell.name for cell in cells_of(settings) if (cell.searcher, cell.budget) == (searcher, budget)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """What a cell's search came to.

    Attributes:
        keys: of the plans it had scored, in their order.
        rewards: what it was paid for each; None for plans that may be no result.
        seconds: that each took: scoring it, when it was first scored, and what the searcher did before.
        costed: plans of which it only asked the cost.
        finalists: the best plans that may be a result, of which fine-tuning chooses one; none if there is none.
    """

    keys: tuple[str, ...]
    rewards: tuple[float | None, ...]
    seconds: tuple[float, ...]
    costed: int
    finalists: tuple[Evaluation, ...]

    @classmethod
    def of(cls, evaluator: BudgetedEvaluator, finalists: int, *, hand_set: bool = False) -> "Run":
        """The run of a searcher, or of a hand-set rule, that has used its evaluations, with its finalists at most."""
        objective, history = evaluator.problem.objective, evaluator.history
        return cls(
            keys=tuple(trial.evaluation.key for trial in history),
            rewards=tuple(trial.reward if objective.met_by(trial.evaluation) else None for trial in history),
            seconds=tuple(trial.seconds for trial in history),
            costed=evaluator.costed,
            finalists=tuple(find_finalists(evaluator, finalists, hand_set=hand_set)),
        )

    def to_json(self) -> dict[str, Any]:
        """The run as plain data."""
        finalists = [evaluation_to_json(evaluation) for evaluation in self.finalists]
        return {**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)}, "finalists": finalists}
