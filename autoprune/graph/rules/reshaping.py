"""Flatten, Reshape and Permute: the channels move to another axis, or repeat along a longer one."""

import keras
import numpy as np

from autoprune.graph.channels import Channels
from autoprune.graph.rules.registry import channel_rule
from autoprune.graph.trace import Call


def spread_over(shape: tuple[int, ...], channels: Channels) -> np.ndarray:
    """Channel number of every element of a tensor without its batch axis.

    Args:
        shape: shape of the tensor without the batch axis.
        channels: where its channels lie, batch axis counted.
    """
    along = [1] * len(shape)
    along[channels.axis - 1] = -1
    return np.broadcast_to(channels.ids.reshape(along), shape)


def single_axis(elements: np.ndarray) -> Channels | None:
    """The inverse of `spread_over`, or None when the channels vary along more than one axis."""
    for axis in reversed(range(elements.ndim)):
        ids = np.moveaxis(elements, axis, 0).reshape(elements.shape[axis], -1)
        if (ids == ids[:, :1]).all():
            return Channels(axis + 1, ids[:, 0].copy())
    return None


def _fixed_shape(call: Call) -> tuple[int, ...] | None:
    """Input shape without the batch axis, when all of it is known."""
    shape = call.inputs[0].shape[1:]
    return None if any(size is None for size in shape) else tuple(shape)


@channel_rule(keras.layers.Flatten)
def flatten(call: Call) -> Channels | None:
    """Position p of the output holds a channel once for every pixel; channels-first tensors are transposed first."""
    (channels,) = call.channels
    if channels is None:
        return None
    shape = _fixed_shape(call)
    if shape is None:
        call.freeze(f"is flattened by '{call.path}' from an unknown spatial size")
        return None
    elements = spread_over(shape, channels)
    if call.operation.data_format == "channels_first" and elements.ndim > 1:
        elements = np.moveaxis(elements, 0, -1)
    return Channels(1, elements.reshape(-1))


@channel_rule(keras.layers.Reshape)
def reshape(call: Call) -> Channels | None:
    """Followed when the channels end on one axis; a static size in `target_shape` then follows them."""
    (channels,) = call.channels
    if channels is None:
        return None
    shape, target = _fixed_shape(call), call.outputs[0].shape[1:]
    moved = None
    if shape is not None and all(size is not None for size in target):
        moved = single_axis(spread_over(shape, channels).reshape(target))
    if moved is None:
        call.freeze(f"is spread over several axes by '{call.path}'")
        return None
    position = moved.axis - 1
    if call.operation.target_shape[position] != -1:
        call.bind_attribute("target_shape", moved.ids, position)
    return moved


@channel_rule(keras.layers.Permute)
def permute(call: Call) -> Channels | None:
    """The channels move with their axis. `dims` counts from 1, as the axes do here."""
    (channels,) = call.channels
    return None if channels is None else Channels(1 + list(call.operation.dims).index(channels.axis), channels.ids)
