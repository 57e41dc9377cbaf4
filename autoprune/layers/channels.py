"""Bookkeeping of single channels: which positions of which axes are one and the same channel.

Every channel that a layer produces gets a number. An axis of a tensor or variable is described by the numbers along
it, so that concatenation, flattening, shared layers and residual sums need no special cases: they concatenate,
repeat and equate numbers. Equalities are only noted while the model is walked, and resolved once at the end.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels along one axis of a tensor.

    Attributes:
        axis: the axis, counted from 0 with the batch axis included.
        ids: (size of the axis,) number of the channel at each position.
    """

    axis: int
    ids: np.ndarray


class ChannelTable:
    """Hands out channel numbers and remembers which are equal and which are frozen."""

    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._frozen: list[tuple[np.ndarray, str]] = []

    def new(self, size: int) -> np.ndarray:
        """Numbers for `size` channels never seen before."""
        ids = np.arange(self._count, self._count + size)
        self._count += size
        return ids

    def equate(self, first: np.ndarray, second: np.ndarray) -> None:
        """Note that the channels are the same, position by position.

        Raises:
            ValueError: the arrays differ in length.
        """
        if len(first) != len(second):
            raise ValueError(f"cannot equate {len(first)} with {len(second)} channels")
        if first is not second:
            self._pairs.append((first, second))

    def freeze(self, ids: np.ndarray, reason: str, *, first: bool = False) -> None:
        """Note that these channels cannot be removed, and why.

        Of several reasons for one channel the first is shown; `first` puts this one before all others.
        """
        self._frozen.insert(0 if first else len(self._frozen), (ids, reason))

    def resolve(self) -> tuple[np.ndarray, dict[int, str]]:
        """Merge equal channels.

        Returns:
            For every number handed out, the number of its merged channel (dense, from 0); and the reason for
            every merged channel that is frozen.
        """
        if self._count == 0:
            return np.empty(0, int), {}
        first = np.concatenate([a for a, _ in self._pairs]) if self._pairs else np.empty(0, int)
        second = np.concatenate([b for _, b in self._pairs]) if self._pairs else np.empty(0, int)
        edges = coo_array((np.ones(len(first), bool), (first, second)), shape=(self._count, self._count))
        _, merged = connected_components(edges, directed=False)
        reasons: dict[int, str] = {}
        for ids, reason in self._frozen:
            for channel in np.unique(merged[ids]):
                reasons.setdefault(int(channel), reason)
        return merged, reasons
