"""What the agent does: one number in [-1, 1] per group, relative to uniform pruning."""

import numpy as np

from autoprune.planning.widths import legal_width, ratio_around
from autoprune.settings import Constraints

MEANING = "keep ratio of the next group: -1 the least allowed, 0 the uniform ratio that meets the budget, 1 all"


def keep_ratio(action: np.ndarray, size: int, anchor: float, constraints: Constraints, unit: int = 1) -> float:
    """The keep ratio that an action stands for, snapped to a legal width.

    Args:
        action: (1,) in [-1, 1]; values outside are clipped.
        size: channels of the group.
        anchor: keep ratio of action 0.
        constraints: which widths are legal.
        unit: positions of an axis that each channel stands for.
    """
    wanted = ratio_around(anchor, float(np.asarray(action).reshape(-1)[0]), constraints.min_keep_ratio)
    return legal_width(size, wanted, constraints, unit) / size
