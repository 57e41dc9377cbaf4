"""Measures that look at the weights alone.

A filter is what a kernel holds for one position of its output axis. Each layer that produces channels of the group
gives its filters' scores; the settings say how they are normalised and brought together.
"""

import zlib
from collections.abc import Callable

import keras
import numpy as np

from autoprune.planning.importance.basis import IMPORTANCES, Basis, Measure
from autoprune.planning.importance.combining import Part, covers
from autoprune.records import ChannelGroup, Member


def _of_filters(basis: Basis, score: Callable[[np.ndarray], np.ndarray]) -> Measure:
    """The measure that scores each producing layer's filters, an array (filters, weights of one), by a function."""

    def measure(group: ChannelGroup) -> np.ndarray:
        parts = []
        for member in group.members:
            if member.role == "produces":
                value = np.moveaxis(basis.value(member), member.axis, 0)
                parts.append(Part(member.channels, score(value.reshape(len(value), -1))))
        return basis.combine(group, parts)

    return measure


@IMPORTANCES.add("l1")
def l1(basis: Basis) -> Measure:
    """Sum of absolute weights of the filter that makes the channel (Li et al., 2017, arXiv 1608.08710)."""
    return _of_filters(basis, lambda filters: np.abs(filters).sum(1))


@IMPORTANCES.add("l2")
def l2(basis: Basis) -> Measure:
    """Euclidean norm of the filter that makes the channel (He et al., 2018, arXiv 1808.06866)."""
    return _of_filters(basis, lambda filters: np.sqrt(np.square(filters).sum(1)))


@IMPORTANCES.add("fpgm")
def fpgm(basis: Basis) -> Measure:
    """Sum of the Euclidean distances of a filter to all others of its layer (He et al., 2019, arXiv 1811.00250).

    The lowest lie nearest to the geometric median: the others can stand in for them. The sum is over the whole layer,
    filters of other groups included.
    """
    return _of_filters(basis, _sums_of_distances)


def _sums_of_distances(filters: np.ndarray) -> np.ndarray:
    # The mean is taken off first: distances stay, and less is lost in the difference of large squares.
    centred = filters - filters.mean(0)
    squares = np.square(centred).sum(1)
    squared = squares[:, None] + squares - 2 * centred @ centred.T
    np.fill_diagonal(squared, 0)
    return np.sqrt(np.maximum(squared, 0)).sum(1)


@IMPORTANCES.add("lamp")
def lamp(basis: Basis) -> Measure:
    """Layer-adaptive magnitude of whole filters (after Lee et al., 2021, arXiv 2010.07611, which scores weights).

    The squared Euclidean norm of a filter, divided by the sum of the squared norms of all filters of its layer that
    are at least as large, itself included: 1 for the largest, and equal filters get equal scores. Within a layer it
    ranks as `l2` does; between layers it differs, so that it matters for a global ranking, with
    `normalisation="none"`.
    """
    return _of_filters(basis, _lamp)


def _lamp(filters: np.ndarray) -> np.ndarray:
    squares = np.square(filters).sum(1)
    ascending = np.sort(squares)
    at_least = np.cumsum(ascending[::-1])[::-1][np.searchsorted(ascending, squares)]
    return squares / np.where(at_least > 0, at_least, 1.0)


@IMPORTANCES.add("bn_gamma")
def bn_gamma(basis: Basis) -> Measure:
    """Absolute batch-norm scale of the channel (Liu et al., 2017, arXiv 1708.06519).

    A group whose channels do not all pass a batch norm with a scale is scored by `l1`.
    """
    fallback = l1(basis)

    def measure(group: ChannelGroup) -> np.ndarray:
        scales = [m for m in group.members if m.name == "gamma" and _is_batch_norm(basis, m)]
        parts = [Part(member.channels, np.abs(basis.value(member))) for member in scales]
        return basis.combine(group, parts) if covers(group.size, parts) else fallback(group)

    return measure


def _is_batch_norm(basis: Basis, member: Member) -> bool:
    return isinstance(basis.layers[member.layer], keras.layers.BatchNormalization)


@IMPORTANCES.add("random")
def random(basis: Basis) -> Measure:
    """Uniform noise: the control that every other measure must beat (Mittal et al., 2018, arXiv 1801.10447).

    Depends on the seed and the group's name alone.
    """
    return lambda group: np.random.default_rng([basis.seed, zlib.crc32(group.name.encode())]).random(group.size)
