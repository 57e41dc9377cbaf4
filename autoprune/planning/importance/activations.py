"""Criteria that look at what flows: the model runs on calibration images, once, for all groups.

Activations are read where the channels are consumed, at the input of the convolutions and dense layers that read
them: after batch norm, activation, pooling and sums, so that what counts is what arrives. Each such layer gives the
scores of the positions of its input; the settings say how these are normalised and brought together.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from autoprune.layers import LayerKind, exact_kind_of
from autoprune.models.activation_hooks import observe_inputs
from autoprune.planning.importance.combining import MemberScores, covers
from autoprune.planning.importance.context import IMPORTANCES, Criterion, ImportanceContext
from autoprune.planning.importance.weights import or_l1

ops = keras.ops

Statistic = Callable[[Any], np.ndarray]


@IMPORTANCES.add("activation")
def activation(context: ImportanceContext) -> Criterion:
    """Mean absolute activation of the channel, over images and pixels (after Molchanov et al., 2017, arXiv 1611.06440).

    Their criterion is the mean; the absolute value keeps positive and negative parts from cancelling where no ReLU
    comes before.
    """
    return _score_activations(context, lambda x: _mean(ops.abs(ops.cast(x, "float32"))))


@IMPORTANCES.add("apoz")
def apoz(context: ImportanceContext) -> Criterion:
    """1 - the average percentage of zeros (Hu et al., 2016, arXiv 1607.03250): the share of activations not zero.

    Only a ReLU makes zeros: where another activation comes before the consumer all channels score alike.
    """
    return _score_activations(context, lambda x: _mean(ops.cast(ops.not_equal(x, 0), "float32")))


@IMPORTANCES.add("hrank")
def hrank(context: ImportanceContext) -> Criterion:
    """Rank of the channel's feature map, averaged over images (Lin et al., 2020, arXiv 2002.10179).

    The map is what one image leaves on the last two spatial axes; with three, its slices are averaged. With one
    spatial axis the map is a vector and with none (behind global pooling or Flatten) a number: its rank is 1 unless
    it is all zero, so that the score is the share of maps, or of values, that are not.
    """

    def mean_rank(x: Any) -> np.ndarray:
        maps = np.moveaxis(ops.convert_to_numpy(ops.cast(x, "float32")), -1, 0)
        if maps.ndim <= 3:  # channels, images and at most one spatial axis.
            return maps.any(axis=-1).mean(1) if maps.ndim == 3 else (maps != 0).mean(1)
        ranks = np.linalg.matrix_rank(maps)
        return ranks.reshape(len(maps), -1).mean(1)

    return _score_activations(context, mean_rank)


def _mean(values: Any) -> np.ndarray:
    """(channels,) mean over all axes but the last."""
    return ops.convert_to_numpy(ops.mean(values, axis=tuple(range(len(values.shape) - 1))))


def _score_activations(context: ImportanceContext, statistic: Statistic) -> Criterion:
    """The criterion that averages, over batches, a statistic (*batch and space, positions) -> (positions,)."""
    data = context.calibration()
    # For each group the layers that read it, with their kinds and the channel at every position of their inputs.
    readers: dict[str, list[tuple[Any, LayerKind, np.ndarray]]] = {group.name: [] for group in context.groups}
    for group in context.groups:
        for member in group.members:
            if not member.is_attribute:
                layer = context.layers[member.layer]
                kind = exact_kind_of(layer)
                channels = None if kind is None else kind.input_channels(layer, member)
                if kind is not None and channels is not None:
                    readers[group.name].append((layer, kind, channels))
    watched = {id(layer): (layer, kind) for found in readers.values() for layer, kind, _ in found}
    totals: dict[int, np.ndarray] = {}
    seen: dict[int, int] = {}

    def observe(layer: Any, x: Any) -> None:
        axis = watched[id(layer)][1].channel_axis(layer, len(x.shape))
        weighted = len(x) * statistic(ops.moveaxis(x, axis, -1)).astype(np.float64)
        totals[id(layer)] = totals.get(id(layer), 0) + weighted
        seen[id(layer)] = seen.get(id(layer), 0) + len(x)

    layers = [layer for layer, _ in watched.values()]
    observe_inputs(context.model, layers, (images for images, _ in data.batches()), observe)
    scores = {
        name: [MemberScores(channels, totals[id(layer)] / seen[id(layer)]) for layer, _, channels in found]
        for name, found in readers.items()
    }
    unread = [group.name for group in context.groups if not covers(group.size, scores[group.name])]
    reason = "cannot be read for %s, as no convolution or dense layer reads the channels: 'l1' ranks them instead."
    return or_l1(context, scores, unread, reason)
