"""Which widths are worth proposing, learnt from the target itself: the staircase of each channel group.

On a TPU a narrower layer is often no faster: the compiler fills tiles up, and chooses layouts by width and batch. The
dense model is costed with one group after the other at some of its legal widths. A width that is no faster than a
wider one buys nothing for the accuracy it costs.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from autoprune.cost.layers import LayerDependence, group_forms
from autoprune.cost.surrogate import Surrogate
from autoprune.evaluation.evaluator import Evaluator
from autoprune.planning import SearchSpace
from autoprune.records import Branch, ChannelGroup, CostReport


@dataclass(frozen=True)
class Step:
    """One plan that is costed: one group at one width, all others dense.

    Attributes:
        groups: names of the groups that it speaks for; the first is the one that is cut.
        width: channels that are left.
    """

    groups: tuple[str, ...]
    width: int


def staircase_steps(
    space: SearchSpace, parts: Sequence[ChannelGroup | Branch], layers: Sequence[LayerDependence], points: int
) -> list[Step]:
    """The plans that tell every group's staircase.

    Groups of the same size between layers of the same form are costed once: their staircases are alike.

    Args:
        space: with the widths that are thought of.
        parts: what its dimensions decide on.
        layers: how the model's layers depend on its groups.
        points: widths of a group at most, evenly spread, narrowest and dense among them.
    """
    alike: dict[Hashable, list[str]] = {}
    for name, form in group_forms(parts, layers).items():
        alike.setdefault(form, []).append(name)
    options = {dimension.name: dimension.options for dimension in space.dimensions}
    steps = []
    for names in alike.values():
        widths: Sequence[int] = options[names[0]]
        if len(widths) > points:
            last = len(widths) - 1
            widths = sorted({widths[round(number * last / (points - 1))] for number in range(points)})
        steps += [Step(tuple(names), width) for width in widths]
    return steps


def staircase_widths(
    evaluator: Evaluator,
    steps: Sequence[Step],
    surrogate: Surrogate,
    *,
    memory: bool = False,
    observe: Callable[[int], None] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The widths of every group that are faster than all wider ones, the rest of the model being dense.

    Args:
        evaluator: costs plans; its model is dense.
        steps: from `staircase_steps`.
        surrogate: learns from the costs.
        memory: also keep widths that take less device memory than all wider ones.
        observe: called with the number of steps that are done.

    Returns:
        Ascending widths by group name; the last is the dense one.

    Raises:
        CostError: a plan cannot be costed.
    """
    space = evaluator.space
    dense = space.by_name(space.full)
    plans = [space.find({**dense, step.groups[0]: step.width}) for step in steps]
    costs: dict[str, dict[int, CostReport]] = {}
    answers = zip(steps, plans, evaluator.costs(plans), strict=True)
    for number, (step, plan, cost) in enumerate(answers, start=1):
        surrogate.observe(space.values(plan), cost)
        for name in step.groups:
            costs.setdefault(name, {})[step.width] = cost
        if observe is not None:
            observe(number)
    return {name: worthwhile(of_group, memory=memory) for name, of_group in costs.items()}


def worthwhile(costs: Mapping[int, CostReport], *, memory: bool = False) -> tuple[int, ...]:
    """Of widths with their costs those that are cheaper than every wider one; ascending."""
    kept, latency, total = [], float("inf"), float("inf")
    for width in sorted(costs, reverse=True):
        cost = costs[width]
        smaller = memory and cost.memory.total is not None and cost.memory.total < total
        if cost.latency < latency or smaller:
            kept.append(width)
        latency = min(latency, cost.latency)
        total = min(total, cost.memory.total or total)
    return tuple(reversed(kept))
