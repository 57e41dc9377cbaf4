"""Criteria that look at the weights alone.

A filter is what a kernel holds for one position of its output axis. Each layer that produces channels of the group
gives its filters' scores; the settings say how they are normalised and brought together.
"""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import keras
import numpy as np

from autoprune.planning.importance.combining import MemberScores, covers
from autoprune.planning.importance.context import IMPORTANCES, Criterion, ImportanceContext
from autoprune.records import ChannelGroup

_SQUARES = partial(np.square, dtype=np.float64)  # In float64: those of half precision overflow.

logger = logging.getLogger(__name__)


def _score_filters(context: ImportanceContext, score: Callable[[np.ndarray, int], np.ndarray]) -> Criterion:
    """The criterion that scores each producing layer's filters, which lie along an axis of an array, by a function."""

    def criterion(group: ChannelGroup) -> np.ndarray:
        makers = [member for member in group.members if member.role == "produces"]
        return context.combine(
            group, [MemberScores(member.channels, score(context.value(member), member.axis)) for member in makers]
        )

    return criterion


@IMPORTANCES.add("l1")
def l1(context: ImportanceContext) -> Criterion:
    """Sum of absolute weights of the filter that makes the channel (Li et al., 2017, arXiv 1608.08710)."""
    return _score_filters(context, lambda value, axis: _sums(np.abs, value, axis))


@IMPORTANCES.add("l2")
def l2(context: ImportanceContext) -> Criterion:
    """Euclidean norm of the filter that makes the channel (He et al., 2018, arXiv 1808.06866)."""
    return _score_filters(context, lambda value, axis: np.sqrt(_sums(_SQUARES, value, axis)))


def _sums(function: Callable[[np.ndarray], np.ndarray], value: np.ndarray, axis: int) -> np.ndarray:
    """Sums of a function of the elements over all axes but one, in float64.

    Block by block: the first dense layer of VGG-16 has 400 MB, which a second array of that size makes slow to read.
    """
    rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
    step = max(1, 2**18 // rows.shape[1])
    blocks = (rows[start : start + step] for start in range(0, len(rows), step))
    return sum(function(block).sum(0, dtype=np.float64) for block in blocks)


@IMPORTANCES.add("fpgm")
def fpgm(context: ImportanceContext) -> Criterion:
    """Sum of the Euclidean distances of a filter to all others of its layer (He et al., 2019, arXiv 1811.00250).

    The lowest lie nearest to the geometric median: the others can stand in for them. The sum is over the whole layer,
    filters of other groups included.
    """

    def score(value: np.ndarray, axis: int) -> np.ndarray:
        filters = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1).astype(np.float64)
        # The mean is taken off first: distances stay, and less is lost in the difference of large squares.
        centred = filters - filters.mean(0)
        squares = np.square(centred).sum(1)
        squared = squares[:, None] + squares - 2 * centred @ centred.T
        np.fill_diagonal(squared, 0)
        return np.sqrt(np.maximum(squared, 0)).sum(1)

    return _score_filters(context, score)


@IMPORTANCES.add("lamp")
def lamp(context: ImportanceContext) -> Criterion:
    """Layer-adaptive magnitude of whole filters (after Lee et al., 2021, arXiv 2010.07611, which scores weights).

    The squared Euclidean norm of a filter, divided by the sum of the squared norms of all filters of its layer that
    are at least as large, itself included: 1 for the largest, and equal filters get equal scores. Within a layer it
    ranks as `l2` does; between layers it differs, so that it matters for a global ranking, with
    `normalisation="none"`.
    """

    def score(value: np.ndarray, axis: int) -> np.ndarray:
        squares = _sums(_SQUARES, value, axis)
        ascending = np.sort(squares)
        at_least = np.cumsum(ascending[::-1])[::-1][np.searchsorted(ascending, squares)]
        return squares / np.where(at_least > 0, at_least, 1.0)

    return _score_filters(context, score)


@IMPORTANCES.add("bn_gamma")
def bn_gamma(context: ImportanceContext) -> Criterion:
    """Absolute batch-norm scale of the channel (Liu et al., 2017, arXiv 1708.06519).

    A group whose channels do not all pass a batch norm with a scale is scored by `l1`.
    """
    fallback = l1(context)
    norms = {name for name, layer in context.layers.items() if isinstance(layer, keras.layers.BatchNormalization)}

    def criterion(group: ChannelGroup) -> np.ndarray:
        scales = [member for member in group.members if member.name == "gamma" and member.layer in norms]
        members = [MemberScores(member.channels, np.abs(context.value(member))) for member in scales]
        return context.combine(group, members) if covers(group.size, members) else fallback(group)

    return criterion


@IMPORTANCES.add("random")
def random(context: ImportanceContext) -> Criterion:
    """Uniform noise: the control that every other criterion must beat (Mittal et al., 2018, arXiv 1801.10447).

    Depends on the seed and the group's name alone.
    """
    return lambda group: np.random.default_rng([context.seed, zlib.crc32(group.name.encode())]).random(group.size)


def or_l1(
    context: ImportanceContext, scores: Mapping[str, list[MemberScores]], without: Sequence[str], reason: str
) -> Criterion:
    """The criterion that combines the scores of each group by its name, and is `l1` for groups that have none.

    Args:
        context: the model and its groups.
        scores: scores of the members of each group.
        without: names of the groups without scores, which are told in a warning.
        reason: why they have none, with `%s` in the place of their names.
    """
    if without:
        logger.warning(f"The importance '%s' {reason}", context.settings.name, ", ".join(f"'{n}'" for n in without))
    fallback = l1(context)
    return lambda g: fallback(g) if g.name in without else context.combine(g, scores[g.name])
