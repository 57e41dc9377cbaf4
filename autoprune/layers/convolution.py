"""Convolutions and dense layers: the operations that make new channels."""

import keras
import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import channel_axis, check_activation, couple_runs, on_axis
from autoprune.layers.registry import channel_rule
from autoprune.models import keras_internals

layers = keras.layers


def _consume(call: Call, variable: str, axis: int, channels: Channels | None) -> None:
    """Bind the input axis of a kernel; an input nothing of which can be removed fixes it."""
    if channels is not None:
        call.bind(variable, axis, "consumes", channels.ids)
        return
    size = keras_internals.layer_variable(call.operation, variable).shape[axis]
    call.bind(variable, axis, "consumes", call.fixed(size, f"is read by '{call.path}' from a fixed input"))


def _produce(call: Call, variable: str, axis: int, attribute: str) -> np.ndarray:
    """Bind the output axis of a kernel with the bias and the attribute that counts it; returns the numbers."""
    ids = call.bind(variable, axis, "produces")
    if call.operation.use_bias:
        call.bind("bias", 0, "follows", ids)
    call.bind_attribute(attribute, ids)
    return ids


def _is_left_whole(call: Call) -> bool:
    """Whether this instance of a layer cannot be pruned, and why."""
    layer = call.operation
    if getattr(layer, "lora_enabled", False):
        call.leave_whole("has LoRA weights")
        return True
    if layer.quantization_mode is not None:
        call.leave_whole(f"is quantised ({layer.quantization_mode})")
        return True
    return False


def _convolve(call: Call, in_axis: int, out_axis: int) -> Channels | None:
    layer = call.operation
    axis = channel_axis(layer, len(call.inputs[0].shape))
    if _is_left_whole(call):
        return None
    _consume(call, "kernel", in_axis, on_axis(call, axis, "the convolution"))
    ids = _produce(call, "kernel", out_axis, "filters")
    return check_activation(call, Channels(axis, ids))


@channel_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(call: Call) -> Channels | None:
    """Kernel (*window, in, out): the input axis reads the channels, the output axis makes new ones."""
    if call.operation.groups > 1:
        return _grouped_convolution(call)
    return _convolve(call, in_axis=-2, out_axis=-1)


def _grouped_convolution(call: Call) -> Channels | None:
    """Kernel (*window, in / groups, out): every group of outputs reads its own run of inputs.

    All groups must stay alike, so there are two ways to shrink: whole groups go, inputs and outputs together, or all
    groups lose the same positions. Whichever leaves more to choose from is taken: whole groups when there are more of
    them than inputs in each. With one input in each this is a depthwise convolution.
    """
    layer = call.operation
    axis = channel_axis(layer, len(call.inputs[0].shape))
    if _is_left_whole(call):
        return None
    channels = on_axis(call, axis, "the convolution")
    inputs, outputs = call.inputs[0].shape[axis] // layer.groups, layer.filters // layer.groups
    if channels is None or layer.groups <= inputs:
        ids = _shrink_every_group(call, channels, inputs, outputs)
    else:
        firsts = couple_runs(call, channels.ids, layer.groups)
        role = "follows" if inputs == 1 else "produces"
        ids = call.bind("kernel", -1, role, np.repeat(firsts, outputs))
        call.bind_attribute("groups", firsts)
    if layer.use_bias:
        call.bind("bias", 0, "follows", ids)
    call.bind_attribute("filters", ids)
    return check_activation(call, Channels(axis, ids))


def _shrink_every_group(call: Call, channels: Channels | None, inputs: int, outputs: int) -> np.ndarray:
    """Couple the same position of all groups, inputs and outputs apart; returns the numbers of the outputs."""
    groups = call.operation.groups
    if channels is None:
        _consume(call, "kernel", -2, None)
    else:
        rows = channels.ids.reshape(groups, inputs)
        for row in rows[1:]:
            call.equate(rows[0], row)
        call.bind("kernel", -2, "consumes", rows[0])
    return call.bind("kernel", -1, "produces", np.tile(call.new(outputs), groups))


@channel_rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(call: Call) -> Channels | None:
    """Kernel (*window, out, in): as a convolution, with the axes the other way round."""
    return _convolve(call, in_axis=-1, out_axis=-2)


@channel_rule(layers.Dense)
def dense(call: Call) -> Channels | None:
    """Kernel (in, out) on the last axis."""
    rank = len(call.inputs[0].shape)
    if _is_left_whole(call):
        return None
    _consume(call, "kernel", 0, on_axis(call, rank - 1, "the dense layer"))
    return check_activation(call, Channels(rank - 1, _produce(call, "kernel", 1, "units")))


@channel_rule(layers.Embedding)
def embedding(call: Call) -> Channels | None:
    """A table (words, out): every feature is a channel on the last axis of the output."""
    if _is_left_whole(call):
        return None
    call.freeze(f"is looked up in '{call.path}'")
    ids = call.bind("embeddings", 1, "produces")
    call.bind_attribute("output_dim", ids)
    return Channels(len(call.outputs[0].shape) - 1, ids)


def _spread(call: Call, variable: str, channels: Channels | None) -> np.ndarray:
    """A depthwise kernel (*window, in, multiplier): numbers of its outputs, `multiplier` copies of each input."""
    layer = call.operation
    if channels is None:
        size = keras_internals.layer_variable(layer, variable).shape[-2]
        ids = call.fixed(size, f"is read by '{call.path}' from a fixed input")
    else:
        ids = channels.ids
    # Output channel `c * multiplier + m` is filter m of input channel c: all m go when c goes.
    return np.repeat(call.bind(variable, -2, "follows", ids), layer.depth_multiplier)


@channel_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(call: Call) -> Channels | None:
    """Every output channel belongs to one input channel."""
    axis = channel_axis(call.operation, len(call.inputs[0].shape))
    ids = _spread(call, "kernel", on_axis(call, axis, "the convolution"))
    if call.operation.use_bias:
        call.bind("bias", 0, "follows", ids)
    return check_activation(call, Channels(axis, ids))


@channel_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(call: Call) -> Channels | None:
    """A depthwise kernel that follows the input, then a pointwise kernel that makes new channels."""
    axis = channel_axis(call.operation, len(call.inputs[0].shape))
    ids = _spread(call, "depthwise_kernel", on_axis(call, axis, "the convolution"))
    call.bind("pointwise_kernel", -2, "consumes", ids)
    return check_activation(call, Channels(axis, _produce(call, "pointwise_kernel", -1, "filters")))
