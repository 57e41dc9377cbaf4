"""Convolutions and dense layers: the operations that make new channels."""

import keras
import numpy as np

from autoprune.graph.channels import Channels
from autoprune.graph.rules.common import channel_axis, check_activation, on_axis
from autoprune.graph.rules.registry import channel_rule
from autoprune.graph.trace import Call
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


def _unsupported(call: Call) -> str:
    """Why this instance of a layer cannot be pruned; empty when it can."""
    layer = call.operation
    if getattr(layer, "lora_enabled", False):
        return "has LoRA weights"
    if layer.quantization_mode is not None:
        return f"is quantised ({layer.quantization_mode})"
    if getattr(layer, "groups", 1) > 1:
        return f"is a grouped convolution (groups={layer.groups})"
    return ""


def _convolve(call: Call, in_axis: int, out_axis: int) -> Channels | None:
    layer = call.operation
    axis = channel_axis(layer, len(call.inputs[0].shape))
    problem = _unsupported(call)
    if problem:
        call.freeze(f"enters '{call.path}', which {problem}")
        return None
    _consume(call, "kernel", in_axis, on_axis(call, axis, "the convolution"))
    ids = _produce(call, "kernel", out_axis, "filters")
    return check_activation(call, Channels(axis, ids))


@channel_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(call: Call) -> Channels | None:
    """Kernel (*window, in, out): the input axis reads the channels, the output axis makes new ones."""
    return _convolve(call, in_axis=-2, out_axis=-1)


@channel_rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(call: Call) -> Channels | None:
    """Kernel (*window, out, in): as a convolution, with the axes the other way round."""
    return _convolve(call, in_axis=-1, out_axis=-2)


@channel_rule(layers.Dense)
def dense(call: Call) -> Channels | None:
    """Kernel (in, out) on the last axis."""
    rank = len(call.inputs[0].shape)
    problem = _unsupported(call)
    if problem:
        call.freeze(f"enters '{call.path}', which {problem}")
        return None
    _consume(call, "kernel", 0, on_axis(call, rank - 1, "the dense layer"))
    return check_activation(call, Channels(rank - 1, _produce(call, "kernel", 1, "units")))


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
