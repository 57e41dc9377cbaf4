"""The cells of a comparison: one searcher at one budget with one seed, and what it found."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.evaluation.journal import evaluation_from_json, evaluation_to_json
from autoprune.records import Evaluation
from autoprune.searchers import Problem, Scorer
from autoprune.searchers.objective import DISTINCT
from autoprune.searchers.uniform import is_hand_set
from autoprune.settings import CompareSettings, SearchSettings


@dataclass(frozen=True)
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

    def settings(self, settings: CompareSettings) -> SearchSettings:
        """Those of the search."""
        return settings.search_settings(self.searcher, self.budget, self.seeds[0])


def cells_of(settings: CompareSettings) -> Iterator[Cell]:
    """Every cell: all searchers and budgets with the first seed, then with the next."""
    for number, seed in enumerate(settings.seeds):
        for budget in settings.budgets:
            for searcher in settings.searchers:
                if not is_hand_set(searcher):
                    yield Cell(searcher, budget, seed, (seed,))
                elif number == 0:
                    yield Cell(searcher, budget, None, tuple(settings.seeds))


@dataclass(frozen=True, eq=False)
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
    def of(cls, scorer: "TimedScorer", problem: Problem, finalists: int, apart: float = DISTINCT) -> "Run":
        """The run of a searcher that has used its evaluations, with so many finalists at most, so far apart."""
        objective, course = problem.objective, scorer.course
        rewards = (objective.reward(done) if objective.met_by(done) else None for done in course)
        keys = (done.key for done in course)
        best = objective.finalists(course, finalists, apart)
        return cls(tuple(keys), tuple(rewards), tuple(scorer.seconds), scorer.costed, tuple(best))

    def to_json(self) -> dict[str, Any]:
        """The run as plain data."""
        finalists = [evaluation_to_json(evaluation) for evaluation in self.finalists]
        return {**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)}, "finalists": finalists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Run":
        """The inverse of `to_json`."""
        lists = {name: tuple(data[name]) for name in ("keys", "rewards", "seconds")}
        finalists = tuple(evaluation_from_json(evaluation) for evaluation in data["finalists"])
        return cls(**lists, costed=data["costed"], finalists=finalists)


class TimedScorer(Scorer):
    """A scorer that also tells how long each evaluation took its searcher.

    A plan that another searcher had scored before counts with the time that it took then: all share the scores, and
    none shall look fast for coming last. What only a cost took is counted as it was, from a cache or not.

    Attributes:
        seconds: for each evaluation, the searcher's own time before it and the time of scoring.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seconds: list[float] = []
        self._since = time.perf_counter()

    def evaluate(
        self, keep_ratios: float | Mapping[str, float], means: str = "", *, steered: bool = True
    ) -> Evaluation:
        """Score a plan; see `Scorer.evaluate`."""
        thought = time.perf_counter() - self._since
        evaluation = super().evaluate(keep_ratios, means, steered=steered)
        self.seconds.append(thought + evaluation.seconds)
        self._since = time.perf_counter()
        return evaluation
