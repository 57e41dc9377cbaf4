"""The rules that an engineer would set by hand, as ladders of plans from wide to narrow.

`autoprune.searchers.uniform` has the searchers that climb down them.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

from autoprune.planning import Candidate, SearchSpace
from autoprune.registry import Registry

# What stands beside every search, of widths alone and of any kind.
WIDTH_RULE, DEPTH_RULE = "uniform", "uniform_depth_width"
DEPTH_RATIOS = 16  # Keep ratios that `uniform_depth_width` tries at each depth.

Ladder = list[Candidate]  # Distinct, from wide to narrow.

# What an engineer would set by hand: the ladders that a rule climbs down.
HAND_SET: Registry[Callable[[SearchSpace], list[Ladder]]] = Registry("hand-set rule")


@HAND_SET.add("uniform")
def _uniform(space: SearchSpace) -> list[Ladder]:
    return [without_repeats(map(space.nearest, space.grid()))]


@HAND_SET.add("uniform_skip")
def _uniform_skip(space: SearchSpace) -> list[Ladder]:
    """One keep ratio, with the first and the last group left whole: what is pruned there is thought to hurt most.

    Gale et al., 2019 (arXiv 1902.09574, section 5) leave the first layer dense and spare the last.
    """
    groups = [dimension.name for dimension in space.dimensions if not dimension.is_branch]
    whole = dict.fromkeys((*groups[:1], *groups[-1:]), 1.0)
    return [without_repeats(space.nearest({**dict.fromkeys(groups, ratio), **whole}) for ratio in space.grid())]


@HAND_SET.add("uniform_width")
def _uniform_width(space: SearchSpace) -> list[Ladder]:
    """A width multiplier (MobileNets, Howard et al., 2017, arXiv 1704.04861): no group keeps more than its share.

    `uniform` takes the nearest legal width of each group and with it now more, now less than the keep ratio says;
    this takes the next one below, or else the least, which costs groups of few channels more.
    """
    return [
        without_repeats(
            tuple(
                last if dimension.is_branch else dimension.at_most(ratio)
                for dimension, last in zip(space.dimensions, space.full, strict=True)
            )
            for ratio in space.grid()
        )
    ]


@HAND_SET.add("uniform_depth")
def _uniform_depth(space: SearchSpace) -> list[Ladder]:
    """Every stage loses the same share of its blocks, the last ones or the first ones, and no channels.

    Blocks are branches that end in a merge; a stage is a run of them that end in one shape.
    """
    return [without_repeats(space.nearest(ratios) for ratios in of_order) for of_order in _depths(space)]


@HAND_SET.add("uniform_depth_width")
def _uniform_depth_width(space: SearchSpace) -> list[Ladder]:
    """A grid of depth and width: for each depth of `uniform_depth`, none lost among them, one keep ratio for all.

    Compound scaling backwards (EfficientNet, Tan & Le, 2019, arXiv 1905.11946): what a person with an afternoon tries.
    """
    groups = [dimension.name for dimension in space.dimensions if not dimension.is_branch]
    grid = np.linspace(1, space.minimum, DEPTH_RATIOS).tolist()
    # Every depth once, the deepest networks first.
    depths = {space.nearest(dropped): dropped for of_order in _depths(space) for dropped in of_order}
    return [
        without_repeats(space.nearest({**dict.fromkeys(groups, ratio), **dropped}) for ratio in grid)
        for _, dropped in sorted(depths.items(), key=lambda depth: len(depth[1]))
    ]


def without_repeats(candidates: Iterable[Candidate]) -> Ladder:
    """The candidates in their order, each once."""
    return list(dict.fromkeys(candidates))


def _depths(space: SearchSpace) -> list[list[dict[str, float]]]:
    """Keep ratios of the branches that go, as ever larger shares of each stage's blocks do: the last, and the first."""
    stages = () if space.depth is None else space.depth.stages
    most = max(map(len, stages), default=0)
    orders: list[list[dict[str, float]]] = [[], []]
    for steps in range(most + 1):
        # The share of a stage's blocks, to the nearest block.
        counts = [math.floor(len(stage) * steps / most + 0.5) if most else 0 for stage in stages]
        for order, last in zip(orders, (True, False), strict=True):
            parts = [s[len(s) - n :] if last else s[:n] for s, n in zip(stages, counts, strict=True)]
            order.append({space.names[position]: 0.0 for part in parts for position in part})
    return orders


def is_hand_set(searcher: str) -> bool:
    """Whether a searcher's plans follow a rule that an engineer would set: it learns nothing, whatever the seed."""
    return searcher in HAND_SET


def hand_set_candidates(name: str, space: SearchSpace) -> list[Candidate]:
    """Every distinct candidate of a rule that is set by hand, one ladder after the other, each from wide to narrow.

    Args:
        name: `uniform`, `uniform_skip`, `uniform_width`, `uniform_depth` or `uniform_depth_width`.
        space: search space that the candidates come from.

    Raises:
        UnknownNameError: there is no such rule.
    """
    return without_repeats(candidate for ladder in HAND_SET.get(name)(space) for candidate in ladder)
