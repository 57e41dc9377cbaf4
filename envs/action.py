"""What the agent does: one number in [-1, 1] per group, relative to uniform pruning."""

import math
from collections.abc import Sequence

import gymnasium
import numpy as np

from autoprune.errors import AutopruneError
from autoprune.planning.widths import nearest_width, ratio_around

MEANING = "keep ratio of the next group: -1 the least allowed, 0 the uniform ratio that meets the budget, 1 all"


class ActionError(AutopruneError, gymnasium.error.InvalidAction):
    """An action stands for no keep ratio."""


def keep_ratio(action: np.ndarray, widths: Sequence[int], anchor: float, minimum: float) -> float:
    """The keep ratio that an action stands for, snapped to a legal width.

    Args:
        action: (1,) in [-1, 1]; values outside are clipped.
        widths: legal ones of the group, ascending; the last is the dense one.
        anchor: keep ratio of action 0.
        minimum: keep ratio of action -1.

    Raises:
        ActionError: the action is not finite.
    """
    value = float(np.asarray(action).reshape(-1)[0])
    if not math.isfinite(value):
        raise ActionError(
            f"An action is a number from -1 to 1. Received: {value}. A policy that acts so has diverged: lower its "
            "learning rate (+agent.options.learning_rate=1e-4)."
        )
    wanted = ratio_around(anchor, value, minimum)
    return nearest_width(widths, wanted) / widths[-1]
