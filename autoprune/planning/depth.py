"""How the branches of a search space are tied to each other and to its groups."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.graph.branches import is_within
from autoprune.records import Branch, ChannelGroup


@dataclass(frozen=True, eq=False, kw_only=True)
class Depth:
    """Which dimensions have no effect without which branches, and which branches cannot go together.

    Attributes:
        positions: (branches,) of the branches among the dimensions.
        layers: (branches, layers) which layers leave with a branch.
        groups: (dimensions, layers) in which layers a dimension has channels; none for a branch.
        read_behind: (branches, dimensions) whose channels are read only behind a concatenation that a branch ends in.
        holders: (branches, branches) whether the first holds the second.
        together: positions of branches of which one has to stay: the last of them, where all are dropped.
        stages: positions of the branches that are the blocks of each stage, in data-flow order. A stage is a run of
            blocks that end in merges of one shape.
    """

    positions: tuple[int, ...]
    layers: np.ndarray
    groups: np.ndarray
    read_behind: np.ndarray
    holders: np.ndarray
    together: tuple[tuple[int, ...], ...]
    stages: tuple[tuple[int, ...], ...]

    def without_effect(self, kept: np.ndarray) -> np.ndarray:
        """(m, dimensions) Whether what a dimension decides on is gone, where (m, branches) says which are kept."""
        gone = ~kept @ self.layers
        found = ~(~gone @ self.groups.T) | (~kept @ self.read_behind)
        found[:, self.positions] = ~kept @ self.holders
        return found


def tie_branches(parts: Sequence[ChannelGroup | Branch], *, keep_stages: bool = False) -> Depth | None:
    """How the branches among the parts of a model are tied; None where there are none.

    Args:
        parts: what each dimension decides on, in their order.
        keep_stages: whether one block at least of every stage stays.
    """
    branches = {position: part for position, part in enumerate(parts) if isinstance(part, Branch)}
    if not branches:
        return None
    owned = [frozenset(branch.operations) for branch in branches.values()]
    members = [{m.layer for m in part.members} if isinstance(part, ChannelGroup) else set() for part in parts]
    columns = sorted(set().union(*members))
    holders = np.array([[all(is_within(path, one) for path in other) for other in owned] for one in owned])
    # Of two that hold each other the first holds the second.
    holders &= ~(np.tril(holders.T) if len(owned) > 1 else holders)
    blocks: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place, (position, branch) in enumerate(branches.items()):
        if branch.kind != "gate" and not holders[:, place].any():
            blocks[branch.merge, branch.call].append(position)
    together, chosen = [], []
    by_merge: dict[tuple[str, int], list[int]] = defaultdict(list)
    for position, branch in branches.items():
        by_merge[branch.merge, branch.call].append(position)
    sizes = {position: len(branch.operations) for position, branch in branches.items()}
    for positions in by_merge.values():
        # The one of most operations is the block; that of fewest, such as a projecting shortcut, stays the longest.
        positions.sort(key=lambda position: -sizes[position])
        if {branches[position].operand for position in positions} >= set(branches[positions[0]].needed):
            together.append(tuple(p for p in positions if branches[p].operand in branches[positions[0]].needed))
    chosen = sorted(max(of_merge, key=lambda position: sizes[position]) for of_merge in blocks.values())
    # What the blocks of one stage have in common: the shape that they end in, of concatenations without channels.
    shapes = {p: branch.shape if branch.kind == "sum" else branch.shape[:-1] for p, branch in branches.items()}
    runs = itertools.groupby(chosen, key=lambda position: (branches[position].kind, shapes[position]))
    stages = tuple(tuple(run) for _, run in runs)
    if keep_stages:
        together += [stage[::-1] for stage in stages]
    return Depth(
        positions=tuple(branches),
        layers=np.array([[is_within(path, one) for path in columns] for one in owned]).reshape(len(owned), -1),
        groups=np.array([[path in of_part for path in columns] for of_part in members]).reshape(len(parts), -1),
        read_behind=np.array(
            [[getattr(part, "name", "") in branch.groups for part in parts] for branch in branches.values()]
        ),
        holders=holders,
        together=tuple(together),
        stages=stages,
    )
