"""What the agent does: one number in [-1, 1] per group, relative to uniform pruning."""

from collections.abc import Sequence

import numpy as np

from autoprune.planning.widths import nearest_width, ratio_around

MEANING = "keep ratio of the next group: -1 the least allowed, 0 the uniform ratio that meets the budget, 1 all"


def keep_ratio(action: np.ndarray, widths: Sequence[int], anchor: float, minimum: float) -> float:
    """The keep ratio that an action stands for, snapped to a legal width.

    Args:
        action: (1,) in [-1, 1]; values outside are clipped.
        widths: legal ones of the group, ascending; the last is the dense one.
        anchor: keep ratio of action 0.
        minimum: keep ratio of action -1.
    """
    wanted = ratio_around(anchor, float(np.asarray(action).reshape(-1)[0]), minimum)
    return nearest_width(widths, wanted) / widths[-1]
