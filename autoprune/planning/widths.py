"""Which widths a group may be cut to."""

import math

from autoprune.settings import Constraints


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
    """
    floor = constraints.min_keep_ratio * size
    step = constraints.multiple_of // math.gcd(constraints.multiple_of, unit)
    return [width for width in range(step, size, step) if width >= floor - 1e-9] + [size]


def legal_width(size: int, keep_ratio: float, constraints: Constraints, unit: int = 1) -> int:
    """The legal width nearest to `keep_ratio * size`; of two equally near the wider."""
    wanted = keep_ratio * size
    return min(legal_widths(size, constraints, unit), key=lambda width: (abs(width - wanted), -width))


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
