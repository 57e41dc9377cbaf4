"""Normalisation: parameters per channel that follow their input.

Batch normalisation treats every channel by itself. Layer, RMS and group normalisation average over channels: after
surgery they average over those that are left, as if the removed ones had never been there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import couple_runs, on_axis, only_input
from autoprune.layers.kind import Factor, LayerKind, layer_kind
from autoprune.models import keras_internals

layers = keras.layers
ops = keras.ops

_STATISTICS = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")


def _follow(call: Call, names: Sequence[str], axis: int, channels: Channels) -> None:
    """Bind those of the variables that the layer has; a missing scale or offset is skipped."""
    for name in names:
        if keras_internals.has_variable(call.operation, name):
            call.bind(name, axis, "follows", channels.ids)


class AnyNormalization(LayerKind):
    """What all normalisations have in common."""

    flops = 0

    def output_factors(self, layer: Any) -> tuple[Factor, ...]:
        """Scale and offset; without a scale there is nothing to multiply."""
        names = [name for name in ("gamma", "scale", "beta") if keras_internals.has_variable(layer, name)]
        return () if names in ([], ["beta"]) else tuple((name, 0) for name in names)


@layer_kind(layers.BatchNormalization)
class BatchNormalization(AnyNormalization):
    """Scale, offset and statistics per channel."""

    def channels(self, call: Call) -> Channels | None:
        """All of them follow."""
        channels = on_axis(call, call.operation.axis % len(call.inputs[0].shape), "batch normalisation")
        if channels is not None:
            _follow(call, ("gamma", "beta", *_STATISTICS), 0, channels)
        return channels

    def open_widths(self, layer: Any) -> Mapping[str, Any]:
        """On the last axis nothing has to be broadcast; channels on another one are brought there."""
        rank, call = layer.input_spec.ndim, layer.call
        axis = layer.axis % rank
        if axis == rank - 1:
            return {"axis": -1}

        def normalise(inputs: Any, *arguments: Any, **options: Any) -> Any:
            outputs = call(ops.moveaxis(inputs, axis, -1), *arguments, **options)
            return ops.moveaxis(outputs, -1, axis)

        return {"axis": -1, "_reduction_axes": list(range(rank - 1)), "call": normalise}


@layer_kind(layers.LayerNormalization, layers.RMSNormalization)
class LayerNormalization(AnyNormalization):
    """Parameters of the shape of the normalised axes."""

    def output_factors(self, layer: Any) -> tuple[Factor, ...]:
        """Of one axis: which of several is the channels' is not told by the layer alone."""
        return super().output_factors(layer) if len(layer.axis) == 1 else ()

    def channels(self, call: Call) -> Channels | None:
        """The parameters follow; where the channels lie on another axis, none do."""
        channels = only_input(call)
        if channels is None:
            return None
        rank = len(call.inputs[0].shape)
        axes = [axis % rank for axis in call.operation.axis]
        trailing = axes == list(range(rank - len(axes), rank))
        # Keras sorts axes before it counts them from the front, and broadcasts the scale of RMS from the back.
        if axes != sorted(axes) or (isinstance(call.operation, layers.RMSNormalization) and not trailing):
            call.freeze(f"enters '{call.path}', whose axes {tuple(call.operation.axis)} are out of order")
            return None
        if channels.axis in axes:
            _follow(call, ("gamma", "beta", "scale"), axes.index(channels.axis), channels)
        return channels

    def open_widths(self, layer: Any) -> Mapping[str, Any]:
        """Scale and offset have the shape to broadcast in already, which Keras leaves as it is."""
        if isinstance(layer, layers.RMSNormalization):
            return {}

        def normalise(inputs: Any) -> Any:
            rank = len(inputs.shape)
            axes = sorted(axis % rank for axis in layer.axis)
            shape = [(inputs.shape[axis] or -1) if axis in axes else 1 for axis in range(rank)]
            scale, offset = (None if v is None else ops.reshape(v, shape) for v in (layer.gamma, layer.beta))
            options = {"rms_scaling": True} if layer.rms_scaling else {}
            outputs = ops.layer_normalization(inputs, scale, offset, axes, layer.epsilon, **options)
            return ops.cast(outputs, layer.compute_dtype)

        return {"call": normalise}


@layer_kind(layers.GroupNormalization)
class GroupNormalization(AnyNormalization):
    """Groups of channels, each normalised by itself."""

    attributes_in_call = ("groups",)

    def channels(self, call: Call) -> Channels | None:
        """Groups must stay equally large, so that there are two ways to shrink.

        Whole groups go, which changes nothing for the others, or all groups lose the same positions. Whichever leaves
        more to choose from is taken.
        """
        layer = call.operation
        channels = on_axis(call, layer.axis % len(call.inputs[0].shape), "group normalisation")
        if channels is None:
            return None
        in_each = len(channels.ids) // layer.groups
        if layer.groups >= in_each:
            call.bind_attribute("groups", couple_runs(call, channels.ids, layer.groups))
        else:
            rows = channels.ids.reshape(layer.groups, in_each)
            for row in rows[1:]:
                call.equate(rows[0], row)
        _follow(call, ("gamma", "beta"), 0, channels)
        return channels

    def open_widths(self, layer: Any) -> Mapping[str, Any]:
        """Keras divides the width by the number of groups; here the two may be tensors."""
        rank = layer.input_spec.ndim
        axis = layer.axis % rank

        def normalise(inputs: Any) -> Any:
            sizes = list(ops.shape(inputs))
            dtype = keras.backend.result_type(inputs.dtype, "float32")
            split = [layer.groups, sizes[axis] // layer.groups]
            apart = ops.cast(ops.reshape(inputs, [*sizes[:axis], *split, *sizes[axis + 1 :]]), dtype)
            mean, variance = ops.moments(apart, [p for p in range(1, rank + 1) if p != axis], keepdims=True)
            along = [1] * axis + split + [1] * (rank - 1 - axis)
            scale, offset = (None if v is None else ops.reshape(v, along) for v in (layer.gamma, layer.beta))
            factor = ops.rsqrt(variance + layer.epsilon)
            factor = factor if scale is None else factor * ops.cast(scale, dtype)
            shift = -mean * factor if offset is None else ops.cast(offset, dtype) - mean * factor
            outputs = ops.reshape(apart * factor + shift, sizes)
            return ops.cast(ops.cast(outputs, inputs.dtype), layer.compute_dtype)

        return {"call": normalise}
