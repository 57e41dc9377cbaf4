"""Which widths a plan may have, and what it may drop: the config group `constraints`."""

from dataclasses import dataclass
from typing import Any

from autoprune.settings.checking import check


@dataclass(frozen=True)
class Constraints:
    """Limits on every group.

    Attributes:
        multiple_of (channels): widths are multiples of this; the dense width always stays allowed, and a group smaller
            than this is left whole. Null: of 8, or for a group that this leaves fewer than two narrower widths, of the
            largest of 4, 2 and 1 that leaves them.
        min_keep_ratio (share): no group is cut below this share of its channels.
        widths: `multiple` allows every such width; `staircase` only those that the target makes worth having: a search
            first costs the dense model with each group at some of its widths, and drops one that is no faster than a
            wider one.
        depth (true, false or names): whether branches may be dropped, such as whole blocks: all that can be but for
            gates (squeeze-and-excitation), none, or those that are named, gates among them.
        keep_stages (true or false): of every stage, a run of blocks that end in one shape, one block at least stays.
        staircase_points (widths): of a group that are costed for `staircase`, at most.
    """

    multiple_of: int | None = 8
    min_keep_ratio: float = 0.1
    widths: str = "multiple"
    depth: Any = True
    keep_stages: bool = False
    staircase_points: int = 12

    def __post_init__(self) -> None:
        known = ("multiple", "staircase")
        check(self.widths in known, "constraints.widths", f"one of {', '.join(known)}", self.widths)
        names = isinstance(self.depth, (list, tuple)) and all(isinstance(name, str) for name in self.depth)
        wanted = "true, false, or a list of branches such as [stage1_block2]"
        check(isinstance(self.depth, bool) or names, "constraints.depth", wanted, self.depth)
        check(self.staircase_points >= 2, "constraints.staircase_points", "2 or more", self.staircase_points)
        allowed = self.multiple_of is None or self.multiple_of >= 1
        check(allowed, "constraints.multiple_of", "1 or more, or null for a step by group size", self.multiple_of)
        allowed = 0 < self.min_keep_ratio <= 1
        check(allowed, "constraints.min_keep_ratio", "above 0 and at most 1", self.min_keep_ratio)
