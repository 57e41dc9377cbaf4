"""The baseline, one keep ratio for every group, and two more rules that an engineer would set by hand."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from autoprune.planning.widths import LegalWidths
from autoprune.registry import Registry
from autoprune.searchers.bracketing import find_widest
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer, overrun
from autoprune.searchers.searcher import SEARCHERS

logger = logging.getLogger(__name__)

# Keep ratios that are told apart: every width of a group of 512 channels in steps of 8.
GRID = 64

KeepRatios = float | Mapping[str, float]
Plan = TypeVar("Plan", float, Mapping[str, float])

# From a keep ratio to a plan: what an engineer would set by hand.
HAND_SET: Registry[Callable[[float, LegalWidths], dict[str, float]]] = Registry("hand-set rule")


def is_hand_set(searcher: str) -> bool:
    """Whether a searcher's plans follow a rule that an engineer would set: it learns nothing, whatever the seed."""
    return searcher in HAND_SET


@SEARCHERS.add("uniform")
def uniform(problem: Problem, scorer: Scorer, seed: int) -> None:
    """Score distinct uniform plans: the anchor, then narrower ones, then those above the budget, for the whole curve.

    When there are more distinct plans than evaluations, evenly spaced ones are scored, the anchor among them.
    """
    ratios = [problem.anchor, *_grid(problem.legal)]
    distinct = _distinct(ratios, problem.legal)
    inside = [ratio for ratio in distinct if ratio <= problem.anchor]
    outside = [ratio for ratio in distinct if ratio > problem.anchor]
    _score(inside, scorer)
    _score(outside, scorer)


@SEARCHERS.add("uniform_skip")
def uniform_skip(problem: Problem, scorer: Scorer, seed: int) -> None:
    """As `uniform`, with the first and the last group left whole: what is pruned there is thought to hurt most.

    Gale et al., 2019 (arXiv 1902.09574, section 5) leave the first layer dense and spare the last. The widest plan
    within the budget is found as the anchor is.
    """
    _score_family("uniform_skip", problem, scorer)


@SEARCHERS.add("uniform_width")
def uniform_width(problem: Problem, scorer: Scorer, seed: int) -> None:
    """A width multiplier (MobileNets, Howard et al., 2017, arXiv 1704.04861): no group keeps more than its share.

    `uniform` takes the nearest legal width of each group and with it now more, now less than the keep ratio says;
    this takes the next one below, which costs groups of few channels more. The widest plan within the budget is found
    as the anchor is.
    """
    _score_family("uniform_width", problem, scorer)


def distinct_ratios(legal: LegalWidths) -> list[float]:
    """Keep ratios, descending from 1 to the least allowed, of which each gives another plan: at most 64."""
    return _distinct(_grid(legal), legal)


def hand_set_plans(name: str, legal: LegalWidths) -> list[dict[str, float]]:
    """Every distinct plan of a rule that is set by hand, from wide to narrow: at most 64, the dense plan first.

    Args:
        name: `uniform`, `uniform_skip` or `uniform_width`.
        legal: widths of the groups.

    Raises:
        UnknownNameError: there is no such rule.
    """
    return _distinct([HAND_SET.get(name)(ratio, legal) for ratio in _grid(legal)], legal)


def _score_family(name: str, problem: Problem, scorer: Scorer) -> None:
    """Score plans of a rule, from wide to narrow, in the order of `uniform`; the anchor, if none is within budget."""
    distinct = hand_set_plans(name, problem.legal)
    widest = find_widest(len(distinct), lambda number: overrun(problem, scorer, distinct[number]))
    if widest is None:
        logger.warning("no plan of %s meets the budget: the best flat uniform one stands for it", name)
        scorer.evaluate(problem.anchor, means="anchor")
        widest = 0
    _score(distinct[widest:], scorer)
    _score(distinct[:widest], scorer)


def _score(plans: Sequence[KeepRatios], scorer: Scorer) -> None:
    """Score as many of the plans as there are evaluations left, just as they are."""
    for plan in _spread(plans, scorer.left):
        scorer.evaluate(plan, steered=False)


def _grid(legal: LegalWidths) -> list[float]:
    return np.linspace(1, legal.minimum, GRID).tolist()


@HAND_SET.add("uniform")
def _flat(ratio: float, legal: LegalWidths) -> dict[str, float]:
    """One keep ratio for every group."""
    return dict.fromkeys((group.name for group in legal.groups), ratio)


@HAND_SET.add("uniform_skip")
def _ends_whole(ratio: float, legal: LegalWidths) -> dict[str, float]:
    """The same, but for the first and the last group."""
    return {**_flat(ratio, legal), legal.groups[0].name: 1.0, legal.groups[-1].name: 1.0}


@HAND_SET.add("uniform_width")
def _rounded_down(ratio: float, legal: LegalWidths) -> dict[str, float]:
    """For each group the widest legal keep ratio that is not above the one given, or else its least."""
    chosen = {}
    for group in legal.groups:
        widths = legal.of(group.name)
        chosen[group.name] = max((w for w in widths if w <= ratio * group.size + 1e-9), default=widths[0]) / group.size
    return chosen


def _distinct(plans: Sequence[Plan], legal: LegalWidths) -> list[Plan]:
    """Of keep ratios that give the same plan only the first."""
    seen: dict[tuple[int, ...], Plan] = {}
    for plan in plans:
        seen.setdefault(tuple(legal.all_nearest(plan).values()), plan)
    return list(seen.values())


def _spread(plans: Sequence[Plan], count: int) -> list[Plan]:
    """At most `count` of the plans, evenly spaced, the first among them."""
    if count <= 0 or len(plans) <= count:
        return list(plans[: max(count, 0)])
    return [plans[round(index * (len(plans) - 1) / max(count - 1, 1))] for index in range(count)]
