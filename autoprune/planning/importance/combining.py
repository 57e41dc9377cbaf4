"""From scores along the axes of members to one score per channel of the group."""

from typing import NamedTuple

import numpy as np

from autoprune.settings import ImportanceSettings

_SCALES = {"mean": np.mean, "max": np.max, "sum": np.sum}


class Part(NamedTuple):
    """What one member says.

    Attributes:
        channels: (positions,) for each position its channel in the group, or -1.
        scores: (positions,) score of each position.
    """

    channels: np.ndarray
    scores: np.ndarray


def per_channel(size: int, part: Part) -> np.ndarray:
    """(size,) the mean score of the positions of each channel; NaN for a channel that has no position."""
    held = part.channels >= 0
    counts = np.bincount(part.channels[held], minlength=size)
    sums = np.bincount(part.channels[held], weights=part.scores[held], minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def normalised(scores: np.ndarray, normalisation: str) -> np.ndarray:
    """Scores divided by their mean, maximum or sum, NaN left out; as they are for `none`, or when that is 0.

    Dividing keeps the ranking within the member. It makes members comparable: without it a layer with large weights
    decides for its whole group.
    """
    known = scores[~np.isnan(scores)]
    if normalisation == "none" or not len(known):
        return scores
    scale = _SCALES[normalisation](known)
    return scores / scale if scale > 0 else scores


def combine(size: int, parts: list[Part], settings: ImportanceSettings) -> np.ndarray:
    """(size,) normalises each member's scores and reduces them over the members that hold a channel.

    The reduction `first` takes the first member, in data-flow order, that holds the channel. A channel that no member
    holds gets 0.
    """
    rows = np.stack([normalised(per_channel(size, part), settings.normalisation) for part in parts])
    held = ~np.isnan(rows)
    if settings.reduction == "first":
        return np.where(held.any(0), np.nan_to_num(rows)[held.argmax(0), np.arange(size)], 0.0)
    if settings.reduction == "max":
        return np.where(held.any(0), np.where(held, rows, -np.inf).max(0), 0.0)
    return np.nan_to_num(rows).sum(0) / np.maximum(held.sum(0), 1)


def covers(size: int, parts: list[Part]) -> bool:
    """Whether the members between them hold every channel."""
    held = np.zeros(size + 1, bool)
    for part in parts:
        held[part.channels] = True
    return bool(held[:size].all())
