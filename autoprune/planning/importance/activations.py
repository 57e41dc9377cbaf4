"""Measures that look at what flows: the model runs on calibration images, once, for all groups.

Activations are read where the channels are consumed, at the input of the convolutions and dense layers that read
them: after batch norm, activation, pooling and sums, so that what counts is what arrives. Each such layer gives the
scores of the positions of its input; the settings say how these are normalised and brought together.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from autoprune.models.activation_hooks import observe_inputs
from autoprune.planning.importance.combining import Part, covers
from autoprune.planning.importance.context import IMPORTANCES, Basis, Measure
from autoprune.planning.importance.weights import l1
from autoprune.records import ChannelGroup

logger = logging.getLogger(__name__)

ops = keras.ops
layers = keras.layers

Statistic = Callable[[Any], np.ndarray]

# Layers that can be watched, with the variable one of whose axes is the layer's input axis.
_READERS = (
    *((kind, "kernel") for kind in (layers.Conv1D, layers.Conv2D, layers.Conv3D)),
    *((kind, "kernel") for kind in (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)),
    *((kind, "depthwise_kernel") for kind in (layers.SeparableConv1D, layers.SeparableConv2D)),
    (layers.Dense, "kernel"),
)


@IMPORTANCES.add("activation")
def activation(basis: Basis) -> Measure:
    """Mean absolute activation of the channel, over images and pixels (after Molchanov et al., 2017, arXiv 1611.06440).

    Their criterion is the mean; the absolute value keeps positive and negative parts from cancelling where no ReLU
    comes before.
    """
    return _of_activations(basis, lambda x: _mean(ops.abs(ops.cast(x, "float32"))))


@IMPORTANCES.add("apoz")
def apoz(basis: Basis) -> Measure:
    """1 - the average percentage of zeros (Hu et al., 2016, arXiv 1607.03250): the share of activations not zero.

    Only a ReLU makes zeros: where another activation comes before the consumer all channels score alike.
    """
    return _of_activations(basis, lambda x: _mean(ops.cast(ops.not_equal(x, 0), "float32")))


@IMPORTANCES.add("hrank")
def hrank(basis: Basis) -> Measure:
    """Rank of the channel's feature map, averaged over images (Lin et al., 2020, arXiv 2002.10179).

    The map is what one image leaves on the last two spatial axes; with three, its slices are averaged. With one
    spatial axis the map is a vector and with none (behind global pooling or Flatten) a number: its rank is 1 unless
    it is all zero, so that the score is the share of maps, or of values, that are not.
    """
    return _of_activations(basis, _mean_rank)


def _mean(values: Any) -> np.ndarray:
    """(channels,) mean over all axes but the last."""
    return ops.convert_to_numpy(ops.mean(values, axis=tuple(range(len(values.shape) - 1))))


def _mean_rank(x: Any) -> np.ndarray:
    maps = np.moveaxis(ops.convert_to_numpy(ops.cast(x, "float32")), -1, 0)
    if maps.ndim <= 3:  # channels, images and at most one spatial axis.
        return maps.any(axis=-1).mean(1) if maps.ndim == 3 else (maps != 0).mean(1)
    ranks = np.linalg.matrix_rank(maps)
    return ranks.reshape(len(maps), -1).mean(1)


def _of_activations(basis: Basis, statistic: Statistic) -> Measure:
    """The measure that averages, over batches, a statistic (*batch and space, positions) -> (positions,)."""
    data = basis.calibration()
    readers = {group.name: list(_readers(basis, group)) for group in basis.groups}
    watched = {id(layer): layer for found in readers.values() for layer, _ in found}
    totals: dict[int, np.ndarray] = {}
    seen: dict[int, int] = {}

    def observe(layer: Any, x: Any) -> None:
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        weighted = len(x) * statistic(ops.moveaxis(x, 1, -1) if first else x).astype(np.float64)
        totals[id(layer)] = totals.get(id(layer), 0) + weighted
        seen[id(layer)] = seen.get(id(layer), 0) + len(x)

    observe_inputs(basis.model, watched.values(), (images for images, _ in data.batches()), observe)
    parts = {
        name: [Part(channels, totals[id(layer)] / seen[id(layer)]) for layer, channels in found]
        for name, found in readers.items()
    }
    return _or_l1(basis, parts)


def _or_l1(basis: Basis, parts: dict[str, list[Part]]) -> Measure:
    """The measure that brings the parts together, or falls back to `l1` where they leave channels out."""
    unread = [group.name for group in basis.groups if not covers(group.size, parts[group.name])]
    if unread:
        logger.warning(
            "The importance '%s' cannot be read for %s, as no convolution or dense layer reads the channels: 'l1' "
            "ranks them instead.",
            basis.settings.name,
            ", ".join(f"'{name}'" for name in unread),
        )
    fallback = l1(basis)
    return lambda g: fallback(g) if g.name in unread else basis.combine(g, parts[g.name])


def _readers(basis: Basis, group: ChannelGroup) -> Iterator[tuple[Any, np.ndarray]]:
    """Layers that read channels of the group, each with the channel at every position of its input.

    The kernel of a grouped convolution sees a part of the input at a time: as long as the input has a multiple of its
    positions, these repeat.
    """
    for member in group.members:
        if member.role != ("follows" if member.name == "depthwise_kernel" else "consumes"):
            continue
        layer = basis.layers[member.layer]
        if (type(layer), member.name) in _READERS:
            yield layer, np.tile(member.channels, getattr(layer, "groups", 1))
