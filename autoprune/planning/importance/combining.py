"""From scores along the axes of members to one score per channel of the group."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from autoprune.settings import ImportanceSettings

_SCALES: dict[str, Callable[[np.ndarray], float]] = {"mean": np.mean, "max": np.max, "sum": np.sum}


class MemberScores(NamedTuple):
    """What one member says.

    Attributes:
        channels: (positions,) for each position its channel in the group, or -1.
        scores: (positions,) score of each position.
    """

    channels: np.ndarray
    scores: np.ndarray


def combine(size: int, members: list[MemberScores], settings: ImportanceSettings) -> np.ndarray:
    """(size,) normalises each member's scores, by their absolute values, and reduces them over those of a channel.

    The reduction `first` takes the first member, in data-flow order, that holds the channel. A channel that no member
    holds gets 0.
    """
    rows = []
    for member in members:
        # The mean score of the positions of each channel; NaN for a channel that has no position.
        positions = member.channels >= 0
        counts = np.bincount(member.channels[positions], minlength=size)
        sums = np.bincount(member.channels[positions], weights=member.scores[positions], minlength=size)
        scores = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        # Dividing keeps the ranking within the member. It makes members comparable: without it a layer with large
        # weights decides for its whole group.
        known = scores[~np.isnan(scores)]
        if settings.normalisation != "none" and len(known):
            scale = _SCALES[settings.normalisation](np.abs(known))
            scores = scores / scale if scale > 0 else scores
        rows.append(scores)
    by_member = np.stack(rows)
    held = ~np.isnan(by_member)
    if settings.reduction == "first":
        return np.where(held.any(0), np.nan_to_num(by_member)[held.argmax(0), np.arange(size)], 0.0)
    if settings.reduction == "max":
        return np.where(held.any(0), np.where(held, by_member, -np.inf).max(0), 0.0)
    return np.nan_to_num(by_member).sum(0) / np.maximum(held.sum(0), 1)


def covers(size: int, members: list[MemberScores]) -> bool:
    """Whether the members between them hold every channel."""
    held = np.zeros(size + 1, bool)
    for member in members:
        held[member.channels] = True
    return bool(held[:size].all())
