"""Which branches results are without, and what share of the latency each branch holds in every result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.cost.shares import share_of
from autoprune.graph.branches import is_within
from autoprune.records import Branch, ChannelGroup, Plan
from autoprune.training.finishing import Finished


@dataclass(frozen=True, kw_only=True)
class BranchRow:
    """A branch in the results of a search.

    Attributes:
        name: the name of the branch.
        layers: number of layers that leave with it.
        latency: by the name of each result, the dense model first, the share of its latency that the branch's layers
            hold, from 0 to 1; None where they are gone, or their times are not known.
        gone: names of the results without it.
    """

    name: str
    layers: int
    latency: Mapping[str, float | None]
    gone: tuple[str, ...]

    def cells(self) -> list[str]:
        """For each result what share of its latency the branch holds, or that it is gone."""
        return [
            "gone" if name in self.gone else "-" if share is None else f"{share:.1%}"
            for name, share in self.latency.items()
        ]


def branch_rows(finished: Sequence[Finished], branches: Sequence[Branch]) -> list[BranchRow]:
    """A row for each branch.

    Args:
        finished: the dense model first.
        branches: those that a plan may drop.
    """
    gone = {done.name: gone_branches(done.plan, branches) for done in finished}
    costs = {done.name: done.cost for done in finished}
    return [
        BranchRow(
            name=branch.name,
            layers=len(branch.layers),
            latency={
                name: None
                if branch.name in gone[name] or not cost.layers
                else share_of(branch.layers, cost.layers, cost.latency)
                for name, cost in costs.items()
            },
            gone=tuple(name for name in costs if branch.name in gone[name]),
        )
        for branch in branches
    ]


def gone_branches(plan: Plan, branches: Sequence[Branch]) -> set[str]:
    """Names of the branches that a plan drops, and of those that leave with them."""
    lost = _lost_operations(plan, branches)
    return {branch.name for branch in branches if all(is_within(path, lost) for path in branch.layers)}


def gone_groups(plan: Plan, branches: Sequence[Branch], groups: Sequence[ChannelGroup]) -> dict[str, str]:
    """For every group that a plan leaves nothing of, the branch, or branches, that it leaves with.

    Args:
        plan: with the sizes of all groups.
        branches: those that a plan may drop.
        groups: the channel groups of the model.
    """
    members = {group.name: {member.layer for member in group.members} for group in groups}
    dropped = [branch for branch in branches if branch.name in plan.dropped]
    found = {}
    for name in plan.sizes.keys() - plan.kept.keys():
        holders = [
            branch.name
            for branch in dropped
            if name in branch.groups or any(is_within(path, branch.operations) for path in members.get(name, ()))
        ]
        found[name] = " and ".join(holders)
    return found


def describe_dropped(done: Finished, dense: Finished, branches: Sequence[Branch]) -> str:
    """What branches a result is without, and what they held, as words that follow `is`; empty when it has all."""
    if not done.plan.dropped:
        return ""
    *first, last = done.plan.dropped
    named = f"{', '.join(first)} and {last}" if first else last
    lost = _lost_operations(done.plan, branches)
    held = (
        f", which held {share_of(lost, dense.cost.layers, dense.cost.latency):.1%} of the dense latency"
        if dense.cost.layers
        else ""
    )
    return f"without {named}{held}"


def _lost_operations(plan: Plan, branches: Sequence[Branch]) -> set[str]:
    return {path for branch in branches if branch.name in plan.dropped for path in branch.operations}
