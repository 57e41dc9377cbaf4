"""Raw operations that take parts of tensors, repeat them, pad them, or reduce them along axes."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import only_input, shape_of
from autoprune.layers.kind import LayerKind, raw_kind
from autoprune.layers.reshaping import follow_axis
from autoprune.models import keras_internals


@raw_kind("GetItem")
class GetItem(LayerKind):
    """`x[..., a:b]` takes some of the channels."""

    flops = 0
    attributes_in_call = ("start", "stop")

    def channels(self, call: Call) -> Channels | None:
        """The bounds count what is left before them."""
        channels = only_input(call)
        if channels is None:
            return None
        part = keras_internals.key_per_axis(call.node)[channels.axis]
        if not isinstance(part, slice) or part.step not in (None, 1):
            call.freeze(f"is picked out one by one, or by step, in '{call.path}'")
            return None
        size = len(channels.ids)
        start, stop, _ = part.indices(size)
        if start > 0:
            call.bind_attribute("start", channels.ids[:start], channels.axis, channels.ids)
        if stop < size:
            call.bind_attribute("stop", channels.ids[:stop], channels.axis, channels.ids)
        axis = follow_axis(call, channels.axis, lambda probe: probe[keras_internals.key_without_bounds(call.node)])
        return Channels(axis, channels.ids[start:stop])


@raw_kind("Split")
class Split(LayerKind):
    """Parts along an axis."""

    flops = 0
    attributes_in_call = ("indices_or_sections",)

    def channels(self, call: Call) -> list[Channels | None]:
        """Along the channel axis each part takes its run of channels; the indices count what is left before them."""
        channels = only_input(call)
        if channels is None or call.operation.axis % len(call.inputs[0].shape) != channels.axis:
            return [channels] * len(call.outputs)
        bounds = keras_internals.read_attribute(call.operation, "indices_or_sections")
        for position, bound in enumerate(bounds):
            call.bind_attribute("indices_or_sections", channels.ids[:bound], position, channels.ids)
        return [Channels(channels.axis, ids) for ids in np.split(channels.ids, bounds)]

    def open_widths(self, operation: Any) -> Mapping[str, Any]:
        """By lengths that may be tensors."""

        def split(inputs: Any) -> Any:
            from autoprune.layers import tensorflow_tracing

            end = keras.ops.shape(inputs)[operation.axis]
            bounds = [0, *keras_internals.read_attribute(operation, "indices_or_sections"), end]
            lengths = [after - before for before, after in pairwise(bounds)]
            return tensorflow_tracing.split(inputs, lengths, operation.axis)

        return {"call": split}


@raw_kind("Amax", "Amin", "Max", "Mean", "Min", "Std", "Sum", "Var")
class Reduction(LayerKind):
    """One value for all that lies along some axes."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """Over pixels the channels stay; over channels only a sum does not notice that some are gone."""
        channels = only_input(call)
        if channels is None:
            return None
        rank = len(call.inputs[0].shape)
        axes = range(rank) if call.operation.axis is None else {axis % rank for axis in call.operation.axis}
        if channels.axis in axes:
            if type(call.operation).__name__ != "Sum":
                call.freeze(f"is reduced over the channels by '{call.path}'")
            return None
        if shape_of(getattr(call.operation, "initial", None)):
            call.freeze(f"is reduced by '{call.path}' from an initial value that is no single number")
            return None
        before = 0 if call.operation.keepdims else sum(axis < channels.axis for axis in axes)
        return Channels(channels.axis - before, channels.ids)

    def is_homogeneous(self, operation: Any) -> bool:
        """All but variances, unless they begin with a value of their own."""
        return type(operation).__name__ != "Var" and getattr(operation, "initial", None) is None


@raw_kind("Flip", "Repeat", "Tile")
class Rearrangement(LayerKind):
    """Another order along an axis, or several copies."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """Along the channel axis the channels come in another order, or several times."""
        channels = only_input(call)
        if channels is None:
            return None
        operation, rank = call.operation, len(call.inputs[0].shape)
        kind = type(operation).__name__
        ids = channels.ids
        if kind == "Tile":
            # As in NumPy, repeats count from the last axis.
            given = [int(times) for times in np.broadcast_to(operation.repeats, (np.size(operation.repeats),))]
            repeats = [1] * (rank - len(given)) + given
            return Channels(channels.axis + len(repeats) - rank, np.tile(ids, repeats[channels.axis - rank]))
        if operation.axis is None:
            call.freeze(f"is rearranged along all axes by '{call.path}'")
            return None
        if channels.axis not in [axis % rank for axis in np.atleast_1d(operation.axis)]:
            return channels
        if kind == "Repeat" and np.size(operation.repeats) > 1:
            call.freeze(f"is repeated one by one by '{call.path}'")
            return None
        return Channels(channels.axis, ids[::-1] if kind == "Flip" else np.repeat(ids, operation.repeats))


@raw_kind("Pad")
class Padding(LayerKind):
    """More along an axis."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """Pixels are padded as a layer would; constants before and after the channels are channels that cannot go."""
        channels = only_input(call)
        if channels is None:
            return None
        if call.constants:
            call.freeze(f"is padded by '{call.path}' with a value that is no single number")
            return None
        rank = len(call.inputs[0].shape)
        widths = call.operation.pad_width
        before, after = (widths * rank if len(widths) == 1 else widths)[channels.axis]
        if not before and not after:
            return channels
        if call.operation.mode != "constant":
            call.freeze(f"is padded along the channels by '{call.path}' with what lies beside")
            return None
        reason = f"is a constant that '{call.path}' adds"
        ids = [call.new_fixed(before, reason), channels.ids, call.new_fixed(after, reason)]
        return Channels(channels.axis, np.concatenate(ids))
