"""How many channels each group keeps when one threshold decides over all groups."""

from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.planning.widths import LegalWidths
from autoprune.records import ChannelGroup


def global_widths(
    groups: Sequence[ChannelGroup], scores: Mapping[str, np.ndarray], keep_ratio: float, legal: LegalWidths
) -> dict[str, int]:
    """Widths by one threshold on the scores of all groups.

    Every threshold leaves each group with the channels above it, snapped to the nearest legal width; that is at
    least the group's smallest one. Of all thresholds the one is taken whose widths add up nearest to the wanted
    share of all channels, of two equally near the lower. Scores are compared as they are: it is their
    normalisation that makes groups comparable.

    Args:
        groups: the prunable groups. A group counts its channels once, however many layers hold them.
        scores: importance of every channel, by group name.
        keep_ratio: share of all channels that stay, in (0, 1]. Between legal widths it can be missed, and it is
            exceeded when the smallest legal widths add up to more.
        legal: the widths of each group.

    Returns:
        A legal width for every group.
    """
    owner = np.concatenate([np.full(group.size, number) for number, group in enumerate(groups)])
    # Stable, so that equal scores go by the order of groups and channels: a plan depends on nothing but its inputs.
    descending = owner[np.argsort(-np.concatenate([scores[group.name] for group in groups]), kind="stable")]

    def widths(number: int) -> np.ndarray:
        """Width of one group when the 0, 1, 2, ... highest of all scores lie above the threshold."""
        above = np.concatenate([[0], np.cumsum(descending == number)])
        return _nearest_legal(groups[number].size, legal.of(groups[number].name))[above]

    total = np.sum([widths(number) for number in range(len(groups))], axis=0)
    distance = np.abs(total - keep_ratio * len(owner))
    best = len(owner) - int(np.argmin(distance[::-1]))
    return {group.name: int(widths(number)[best]) for number, group in enumerate(groups)}


def _nearest_legal(size: int, widths: Sequence[int]) -> np.ndarray:
    """(size + 1,) for 0 to all channels of a group the nearest legal width, of two equally near the wider."""
    legal = np.array(widths)
    return legal[np.searchsorted((legal[1:] + legal[:-1]) / 2, np.arange(size + 1), side="right")]
