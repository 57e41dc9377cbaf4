"""Which widths a group may be cut to."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from autoprune.records import ChannelGroup
from autoprune.settings import Constraints


class LegalWidths:
    """The widths that each group of a model may be cut to.

    Args:
        groups: the prunable groups.
        constraints: limits on every group.
        allowed: for groups by name, the only widths worth having (the dense one always is); of the others all that the
            constraints leave.

    Attributes:
        groups: the prunable groups.
        minimum: the keep ratio below which no group is cut.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        constraints: Constraints,
        allowed: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.groups = tuple(groups)
        self.minimum = constraints.min_keep_ratio
        self._widths: dict[str, tuple[int, ...]] = {}
        for group in groups:
            legal = legal_widths(group.size, constraints, group.unit)
            wanted = {*(allowed or {}).get(group.name, legal), group.size}
            self._widths[group.name] = tuple(width for width in legal if width in wanted)

    @property
    def narrows(self) -> bool:
        """Whether any group has a width besides the dense one."""
        return any(len(widths) > 1 for widths in self._widths.values())

    def of(self, name: str) -> tuple[int, ...]:
        """Legal widths of one group, ascending; the last is the dense one."""
        return self._widths[name]

    def nearest(self, name: str, keep_ratio: float) -> int:
        """The legal width of a group nearest to its keep ratio; of two equally near the wider."""
        return nearest_width(self._widths[name], keep_ratio)

    def all_nearest(self, keep_ratios: float | Mapping[str, float]) -> dict[str, int]:
        """The same for every group, from one keep ratio or by name; a group that is not named stays whole."""
        if not isinstance(keep_ratios, Mapping):
            keep_ratios = dict.fromkeys(self._widths, keep_ratios)
        return {name: self.nearest(name, keep_ratios.get(name, 1.0)) for name in self._widths}


def legal_widths(size: int, constraints: Constraints, unit: int = 1) -> list[int]:
    """Every width that a group of `size` channels may have, ascending.

    Args:
        size: channels of the group.
        constraints: limits on every group.
        unit: positions of an axis that each channel stands for (`ChannelGroup.unit`): it is these that are counted in
            multiples.

    >>> legal_widths(20, Constraints(multiple_of=8, min_keep_ratio=0.3))
    [8, 16, 20]
    >>> legal_widths(8, Constraints(multiple_of=8, min_keep_ratio=0.3), unit=4)
    [4, 6, 8]
    >>> legal_widths(8, Constraints(multiple_of=None, min_keep_ratio=0.3))
    [4, 6, 8]
    """
    floor = constraints.min_keep_ratio * size
    # Without a multiple the coarsest of these that leaves a choice of two widths besides the dense one, or the finest.
    for multiple in (8, 4, 2, 1) if constraints.multiple_of is None else (constraints.multiple_of,):
        step = multiple // math.gcd(multiple, unit)
        widths = [width for width in range(step, size, step) if width >= floor - 1e-9] + [size]
        if len(widths) > 2:
            break
    return widths


def legal_width(size: int, keep_ratio: float, constraints: Constraints, unit: int = 1) -> int:
    """The legal width nearest to `keep_ratio * size`; of two equally near the wider."""
    return nearest_width(legal_widths(size, constraints, unit), keep_ratio)


def nearest_width(widths: Sequence[int], keep_ratio: float) -> int:
    """Of ascending widths, the last of which is the dense one, the nearest; of two equally near the wider."""
    wanted = keep_ratio * widths[-1]
    above = min(bisect_left(widths, wanted), len(widths) - 1)
    narrower, wider = widths[max(above - 1, 0)], widths[above]
    return narrower if wanted - narrower < wider - wanted else wider


def ratio_around(anchor: float, offset: float, minimum: float) -> float:
    """A keep ratio by its distance from an anchor: offset -1 is `minimum`, 0 is `anchor`, 1 keeps everything.

    Quadratic on both sides, so that half of the offsets stay within a quarter of the way: one group cut to almost
    nothing ruins a plan whatever the others keep, and evenly spread ratios cut some group that far nearly always
    (`tests/benchmarks/agents.py` compares). Offsets beyond 1 are clipped. With the anchor where uniform pruning meets
    the budget, an offset means the same for every model and budget: fewer or more channels than uniform pruning keeps.

    >>> round(ratio_around(0.6, 0.5, 0.1), 3)
    0.7
    """
    offset = min(max(float(offset), -1.0), 1.0)
    return anchor + offset * abs(offset) * ((1 - anchor) if offset >= 0 else (anchor - minimum))


def offset_of(ratio: float, anchor: float, minimum: float) -> float:
    """The offset for which `ratio_around` gives a keep ratio; at most 1 on either side.

    >>> round(offset_of(0.7, 0.6, 0.1), 3)
    0.5
    """
    span = (1 - anchor) if ratio >= anchor else (anchor - minimum)
    distance = min(abs(ratio - anchor) / span, 1.0) if span > 0 else 0.0
    return math.copysign(math.sqrt(distance), ratio - anchor)
