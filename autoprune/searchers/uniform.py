"""The baseline: one keep ratio for every group."""

from collections.abc import Sequence

from autoprune.planning.widths import legal_width
from autoprune.records import ChannelGroup
from autoprune.searchers.problem import SEARCHERS, Problem, Scorer
from autoprune.settings import Constraints


@SEARCHERS.add("uniform")
def uniform(problem: Problem, scorer: Scorer, seed: int) -> None:
    """Score every distinct uniform plan, those within the budget first and largest first.

    Latency is not monotone in the keep ratio on a TPU, so all are costed, not only those near a bisected one. When
    there are more distinct plans than evaluations, an evenly spaced choice that holds the largest within the budget
    is scored.
    """
    ratios = distinct_ratios(problem.groups, problem.constraints, most=max(16, 2 * scorer.left))
    inside = [ratio for ratio in ratios if problem.budget.met_by(problem.costs(ratio))]
    outside = [ratio for ratio in ratios if ratio not in inside]
    for ratio in _spread(inside, scorer.left):
        scorer.evaluate(ratio)
    for ratio in _spread(outside, scorer.left):
        scorer.evaluate(ratio)


def distinct_ratios(groups: Sequence[ChannelGroup], constraints: Constraints, *, most: int = 64) -> list[float]:
    """Keep ratios, descending from 1, of which each gives another plan.

    Args:
        groups: the prunable groups.
        constraints: which widths are legal; the last ratio is `min_keep_ratio`.
        most: how many evenly spaced ratios are looked at, at most 64.
    """
    lowest = constraints.min_keep_ratio
    steps = max(2, min(most, 64))
    seen: dict[tuple[int, ...], float] = {}
    for step in range(steps):
        ratio = 1 - (1 - lowest) * step / (steps - 1)
        widths = tuple(legal_width(group.size, ratio, constraints) for group in groups)
        seen.setdefault(widths, ratio)
    return list(seen.values())


def _spread(ratios: list[float], count: int) -> list[float]:
    """At most `count` of the ratios, evenly spaced, the first among them."""
    if count <= 0 or len(ratios) <= count:
        return ratios[: max(count, 0)]
    return [ratios[round(index * (len(ratios) - 1) / max(count - 1, 1))] for index in range(count)]
