"""Flatten, Reshape and transpositions: the channels move to another axis, or repeat along a longer one."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import only_input
from autoprune.layers.kind import LayerKind, layer_kind, raw_kind
from autoprune.models import keras_internals


def spread_over(shape: tuple[int, ...], channels: Channels) -> np.ndarray:
    """Channel number of every element of a tensor without its batch axis.

    Args:
        shape: shape of the tensor without the batch axis.
        channels: where its channels lie, batch axis counted.
    """
    along = [1] * len(shape)
    along[channels.axis - 1] = -1
    return np.broadcast_to(channels.ids.reshape(along), shape)


class Movement(LayerKind):
    """What all have in common that only moves numbers."""

    flops = 0
    homogeneous = True


@layer_kind(keras.layers.Flatten)
class Flatten(Movement):
    """Position p of the output holds a channel once for every pixel."""

    def channels(self, call: Call) -> Channels | None:
        """Channels-first tensors are transposed before they are flattened."""
        channels = only_input(call)
        if channels is None:
            return None
        shape = tuple(call.inputs[0].shape[1:])
        if None in shape:
            call.freeze(f"is flattened by '{call.path}' from an unknown spatial size")
            return None
        elements = spread_over(shape, channels)
        if call.operation.data_format == "channels_first" and elements.ndim > 1:
            elements = np.moveaxis(elements, 0, -1)
        return Channels(1, elements.reshape(-1))


@layer_kind(keras.layers.Reshape)
class Reshape(Movement):
    """The same elements along other axes."""

    attributes_in_call = ("target_shape",)

    def channels(self, call: Call) -> Channels | None:
        """A static size in `target_shape`, which has no batch axis, follows the channels."""
        moved = _reshape_channels(call)
        if moved is not None and call.operation.target_shape[moved.axis - 1] != -1:
            call.bind_attribute("target_shape", moved.ids, moved.axis - 1)
        return moved

    def open_widths(self, layer: Any) -> Mapping[str, Any]:
        """As Keras does it, without working out the sizes that are open."""
        if all(isinstance(size, int) for size in layer.target_shape):
            return {}
        known = keras_internals.calls_of(layer)[0].outputs[0].shape[1:]
        pairs = zip(layer.target_shape, known, strict=True)
        sizes = [size if place is None or not isinstance(size, int) else place for size, place in pairs]
        return {"call": lambda inputs: keras.ops.reshape(inputs, (keras.ops.shape(inputs)[0], *sizes))}


@raw_kind("Reshape")
class RawReshape(Movement):
    """As the layer, but `newshape` has a batch axis."""

    attributes_in_call = ("newshape",)

    def channels(self, call: Call) -> Channels | None:
        """A static size in `newshape` follows the channels."""
        moved = _reshape_channels(call)
        if moved is not None and call.operation.newshape[moved.axis] != -1:
            call.bind_attribute("newshape", moved.ids, moved.axis)
        return moved


def _reshape_channels(call: Call) -> Channels | None:
    """Where the channels lie after a reshape.

    Where they are spread over several axes (a split into groups, as for a channel shuffle), the output can only lose
    whole slices of one of them: channels in one slice are coupled, along the axis that leaves most to choose from.
    """
    channels = only_input(call)
    if channels is None:
        return None
    kept = len(call.outputs[0].shape) > 1 and call.outputs[0].shape[-1] == len(channels.ids)
    if channels.axis == len(call.inputs[0].shape) - 1 and kept:
        # The last axis stays as it is, whatever becomes of the others, the batch and unknown sizes included.
        return Channels(len(call.outputs[0].shape) - 1, channels.ids)
    shape, target = tuple(call.inputs[0].shape[1:]), call.outputs[0].shape[1:]
    if not target or None in (*shape, *target):
        call.freeze(f"is reshaped by '{call.path}' from an unknown size")
        return None
    if math.prod(shape) != math.prod(target):
        call.freeze(f"is reshaped by '{call.path}' together with the batch")
        return None
    elements = spread_over(shape, channels).reshape(target)
    slices: list[np.ndarray] = []
    for axis in reversed(range(elements.ndim)):
        rows = np.moveaxis(elements, axis, 0).reshape(elements.shape[axis], -1)
        if (rows == rows[:, :1]).all():  # They vary along no other axis.
            return Channels(axis + 1, rows[:, 0].copy())
        slices.insert(0, rows)
    remaining = []  # For each axis, how many sets of channels there are when those in one slice are coupled.
    for rows in slices:
        _, ids = np.unique(rows, return_inverse=True)
        ids = ids.reshape(rows.shape)
        first, others = np.repeat(ids[:, 0], rows.shape[1]), ids.reshape(-1)
        count = int(ids.max()) + 1
        edges = coo_array((np.ones(len(first), bool), (first, others)), shape=(count, count))
        remaining.append(int(connected_components(edges, directed=False)[0]))
    axis = remaining.index(max(remaining))
    first = slices[axis][:, 0]
    for column in slices[axis].T[1:]:
        if not np.array_equal(first, column):
            call.equate(first, column)
    return Channels(axis + 1, first.copy())


@layer_kind(keras.layers.Permute)
class Permute(Movement):
    """Other order of the axes. `dims` counts from 1, as the axes do here."""

    def channels(self, call: Call) -> Channels | None:
        """The channels move with their axis."""
        channels = only_input(call)
        return None if channels is None else Channels(1 + list(call.operation.dims).index(channels.axis), channels.ids)


@raw_kind("Squeeze")
class Squeeze(Movement):
    """Axes of size 1 vanish."""

    def channels(self, call: Call) -> Channels | None:
        """Axes that are named are not the channels'; without names an axis that shrinks to 1 would vanish too."""
        channels = only_input(call)
        if channels is None:
            return None
        rank = len(call.inputs[0].shape)
        axes = call.operation.axis
        axes = None if axes is None else {axis % rank for axis in np.atleast_1d(axes).tolist()}
        if axes is None or channels.axis in axes:
            call.freeze(f"could be squeezed away by '{call.path}'")
            return None
        return Channels(channels.axis - sum(axis < channels.axis for axis in axes), channels.ids)


_MOVES: dict[str, tuple[Callable[..., np.ndarray], tuple[str, ...]]] = {
    "ExpandDims": (np.expand_dims, ("axis",)),
    "Moveaxis": (np.moveaxis, ("source", "destination")),
    "Swapaxes": (np.swapaxes, ("axis1", "axis2")),
    "Transpose": (np.transpose, ("axes",)),
}


@raw_kind(*_MOVES)
class MoveAxes(Movement):
    """Other order of the axes, or a new one."""

    def channels(self, call: Call) -> Channels | None:
        """The channels move with their axis."""
        channels = only_input(call)
        if channels is None:
            return None
        move, names = _MOVES[type(call.operation).__name__]
        arguments = {name: getattr(call.operation, name) for name in names}
        # After loading tuples are lists, which NumPy does not take everywhere.
        arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
        return Channels(follow_axis(call, channels.axis, lambda probe: move(probe, **arguments)), channels.ids)


def follow_axis(call: Call, axis: int, move: Callable[[np.ndarray], np.ndarray]) -> int:
    """Where an axis of the only input lies after an operation on a stand-in for it.

    In the stand-in the axis asked for is as long as no other, so that its length tells where it went.
    """
    sizes = [1 if size == 1 else 2 for size in call.inputs[0].shape]
    sizes[axis] = 3
    return move(np.empty(sizes, np.int8)).shape.index(3)
