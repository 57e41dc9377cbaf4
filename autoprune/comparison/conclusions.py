"""What a comparison concludes, as records: for the terminal, the report and the file."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.comparison import statistics
from autoprune.comparison.record import PlanResult
from autoprune.comparison.statistics import Interval, Point
from autoprune.records.measure import ACCURACY, Measure

UNIFORM, SCRATCH, DENSE, HIGHEST_SCORE = "hand-set uniform", "from scratch", "dense, tuned", "its highest score"
ALL = "all"  # Budgets of one kind taken together.


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """A searched plan as it was finished with one seed, and what it is compared with.

    Attributes:
        searcher: name of the searcher that found it.
        budget: name of the budget that it keeps, as in `CompareSettings.budgets`.
        seed: seed of its fine-tuning.
        tested: the finished plan.
        uniform: the hand-set plan that is as cheap, finished with the same seed; None if there is none.
        excess: by how much that costs more, as a share; None likewise.
        scratch: the same network trained from scratch; None where it was not.
        first: the finalist of the highest reward in the search, which would stand here had it been the only one.
        score: score of the plan in the search, from 0 to 1.
        dropped: branches that the plan is without.
    """

    searcher: str
    budget: str
    seed: int
    tested: PlanResult
    uniform: PlanResult | None
    excess: float | None
    scratch: PlanResult | None
    first: PlanResult
    score: float
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One searcher at one budget, over the seeds.

    Attributes:
        searcher: its name.
        budget: its name.
        accuracy: test accuracy.
        score: mean of what the search maximised, before fine-tuning.
        latency: mean share of the dense latency.
        memory: mean share of the dense model's memory; None where the target cannot tell.
        uniform: test accuracy of the hand-set plans that are as cheap; None for hand-set searchers, or without any.
        excess: least and largest share by which these cost more (below 0: less); None likewise.
        unmatched: plans that are cheaper than every hand-set one, so that nothing stands against them.
        speed_up: mean of dense latency over latency.
        speed_up_kept: speed-up over what the FLOPs promise; None without FLOPs.
        evaluations: mean number that the searcher used.
        dropped: by the name of each branch that plans are without, how many of them are.
    """

    searcher: str
    budget: str
    accuracy: Interval
    score: float
    latency: float
    memory: float | None
    uniform: Interval | None
    excess: tuple[float, float] | None
    unmatched: int
    speed_up: float
    speed_up_kept: Interval | None
    evaluations: float
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much more accurate a searcher's plans are than a reference's, in paired differences.

    Attributes:
        searcher: whose plans.
        reference: than what: `hand-set uniform` (as cheap), a searcher (same budget and seed), `from scratch` (the same
            network), `dense, tuned` or `its highest score` (the searcher's own plan without a choice of finalists).
        budget: where; `all` are all budgets of the kind.
        kind: of the budgets, `latency` or `memory`.
        interval: of the difference in test accuracy.
    """

    searcher: str
    reference: str
    budget: str
    kind: str
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class CostRatio:
    """What uniform pruning costs at the accuracy of a searcher's plans, over what these cost.

    Attributes:
        searcher: whose plans.
        budget: where; `all` are all budgets of the kind.
        kind: what cost, `latency` or `memory`.
        interval: geometric mean and interval of the ratios; above 1 the searched plans are cheaper.
        bound: empty, or `>=`, `<=`, `~` when some of the ratios are bounds: those whose accuracy lies beyond the curve
            of uniform plans count as the end of that curve.
        bounds: how many are.
    """

    searcher: str
    budget: str
    kind: str
    interval: Interval
    bound: str
    bounds: int

    @property
    def differs(self) -> bool:
        """Whether the interval excludes one, and no bound speaks for more than is known."""
        agreeing = statistics.AT_LEAST if self.interval.mean > 1 else statistics.AT_MOST
        return self.interval.excludes(1.0) and self.bound in (statistics.EXACT, agreeing)


@dataclass(frozen=True)
class Curves:
    """How a searcher got on at one budget: means over the seeds of its best reward so far.

    Attributes:
        evaluations: pairs of evaluations and the mean.
        seconds: pairs of seconds and the mean.
    """

    evaluations: list[tuple[int, float]]
    seconds: list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a comparison comes to.

    Attributes:
        rows: by budget and searcher.
        differences: in accuracy.
        ratios: in cost at equal accuracy.
        volumes: by kind of budget and searcher, the hypervolume of its plans over all budgets of that kind.
        corners: by kind the reference point of the hypervolume: share of the dense cost, and test accuracy.
        dense: the dense model as it was trained.
        dense_tuned: the dense model fine-tuned as long as the plans; None where it was not.
        uniform: by kind and seed the points of hand-set plans: cost and test accuracy.
        outcomes: every searched plan.
        curves: by budget and searcher.
        measure: how accuracies are told.
    """

    rows: list[Row]
    differences: list[Difference]
    ratios: list[CostRatio]
    volumes: dict[str, dict[str, Interval]]
    corners: dict[str, Point]
    dense: PlanResult
    dense_tuned: Interval | None
    uniform: dict[str, dict[int, list[Point]]]
    outcomes: list[SearchOutcome]
    curves: dict[str, dict[str, Curves]]
    measure: Measure = ACCURACY

    @property
    def widest_differences(self) -> list[Difference]:
        """Those over all budgets of a kind, or over the only one."""
        several = {item.kind for item in self.differences if item.budget == ALL}
        return [item for item in self.differences if item.budget == ALL or item.kind not in several]

    def to_json(self) -> dict[str, Any]:
        """The conclusions as plain data, without what the record has anyway."""
        plain = {
            name: getattr(self, name) for name in ("rows", "differences", "ratios", "volumes", "corners", "curves")
        }
        return {**_plain(plain), "dense_tuned": _plain(self.dense_tuned)}


def _plain(value: Any) -> Any:
    """Dataclasses as plain data, intervals as they write themselves."""
    if isinstance(value, Interval):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
