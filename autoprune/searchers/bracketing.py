"""Finds the widest plan within a budget without costing every wider one.

On a TPU a wider plan can be faster than a narrower one, so that plain bisection may end at a plan that is narrower than
need be, and a baseline that is pruned harder than need be is a weak opponent. But plans of nearly the same widths cost
nearly the same: where two plans are well over the budget, those between them are too.
"""

import itertools
import math
from collections.abc import Callable

# How far over the budget, as a share of it, the costed plans on both sides must be for those between to be left out;
# more than nine plans between them need as much more as their square root. In the uniform plans that were all costed
# the deepest dip between neighbours is 10 % (tests/benchmarks/bracketing.py).
MARGIN = 0.15

Overrun = Callable[[int], float | None]  # Costs a plan, by its number: its `Budget.overrun`, None if it has no cost.


def find_widest(count: int, overrun: Overrun, observe: Callable[[int], None] | None = None) -> int | None:
    """Which of some plans, given from wide to narrow, is the first within a budget; None if none is.

    The two ends are costed first: if no plan meets the budget, that is mostly all. Then gaps between costed plans are
    halved, those of the widest plans first, until none is left that may hold a wider plan within the budget: one whose
    plans on both sides are not over it by more than `MARGIN` says.

    Args:
        count: number of plans, 1 or more.
        overrun: costs one of them.
        observe: called after each costing with how many plans may still have to be costed, at most.
    """
    able, costed = list(range(count)), {}
    gaps = [able]
    while gaps:
        # The ends, then the middle of the gap with the widest plans.
        number = next((end for end in (able[0], able[-1]) if end not in costed), gaps[0][len(gaps[0]) // 2])
        excess = overrun(number)
        if excess is None:
            able.remove(number)
        else:
            costed[number] = excess
        known = sorted(costed)
        best = next((number for number in known if costed[number] <= 0), None)
        if not able or best == able[0]:
            gaps = []
        elif able[0] not in costed or able[-1] not in costed:
            gaps = [[number for number in able if number not in costed]]
        else:
            gaps = []
            for wide, narrow in itertools.pairwise(known):
                between = [number for number in able if wide < number < narrow and (best is None or narrow <= best)]
                if between and min(costed[wide], costed[narrow]) <= MARGIN * max(math.sqrt(len(between)) / 3, 1):
                    gaps.append(between)
        if observe is not None:
            observe(sum(map(len, gaps)))
    return min((number for number, excess in costed.items() if excess <= 0), default=None)
