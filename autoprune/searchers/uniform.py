"""The baseline: one keep ratio for every group."""

from collections.abc import Sequence

import numpy as np

from autoprune.planning.widths import LegalWidths
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer
from autoprune.searchers.searcher import SEARCHERS

# Keep ratios that are told apart: every width of a group of 512 channels in steps of 8.
GRID = 64


@SEARCHERS.add("uniform")
def uniform(problem: Problem, scorer: Scorer, seed: int) -> None:
    """Score distinct uniform plans: the anchor, then narrower ones, then those above the budget, for the whole curve.

    When there are more distinct plans than evaluations, evenly spaced ones are scored, the anchor among them.
    """
    ratios = [problem.anchor, *_grid(problem.legal)]
    distinct = _distinct(ratios, problem.legal)
    inside = [ratio for ratio in distinct if ratio <= problem.anchor]
    outside = [ratio for ratio in distinct if ratio > problem.anchor]
    for ratio in _spread(inside, scorer.left):
        scorer.evaluate(ratio)
    for ratio in _spread(outside, scorer.left):
        scorer.evaluate(ratio)


def distinct_ratios(legal: LegalWidths) -> list[float]:
    """Keep ratios, descending from 1 to the least allowed, of which each gives another plan: at most 64."""
    return _distinct(_grid(legal), legal)


def _grid(legal: LegalWidths) -> list[float]:
    return np.linspace(1, legal.minimum, GRID).tolist()


def _distinct(ratios: Sequence[float], legal: LegalWidths) -> list[float]:
    """Of ratios that give the same plan only the first."""
    seen: dict[tuple[int, ...], float] = {}
    for ratio in ratios:
        seen.setdefault(tuple(legal.all_nearest(ratio).values()), ratio)
    return list(seen.values())


def _spread(ratios: list[float], count: int) -> list[float]:
    """At most `count` of the ratios, evenly spaced, the first among them."""
    if count <= 0 or len(ratios) <= count:
        return ratios[: max(count, 0)]
    return [ratios[round(index * (len(ratios) - 1) / max(count - 1, 1))] for index in range(count)]
