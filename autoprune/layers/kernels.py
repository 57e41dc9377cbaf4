"""Dense layers, tables and convolutions: kernels that make new channels, or work on every channel by itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import (
    check_activation,
    consume,
    couple_runs,
    is_homogeneous_function,
    is_left_whole,
    on_axis,
    produce,
)
from autoprune.layers.kind import Factor, LayerKind, Sizes, count_weights, layer_kind
from autoprune.models import keras_internals
from autoprune.records import Member

layers = keras.layers


class AnyKernel(LayerKind):
    """What dense layers and convolutions have in common.

    Attributes:
        reads: the axis of a kernel along which it multiplies each channel of the input.
        makes: the axis of a kernel along which it makes each channel of the output.
    """

    input_variable = "kernel"
    reads: Factor
    makes: Factor

    def input_factors(self, layer: Any) -> tuple[Factor, ...]:
        """The kernel along its input axis."""
        return (self.reads,)

    def output_factors(self, layer: Any) -> tuple[Factor, ...]:
        """The kernel along its output axis, and the bias."""
        if not is_homogeneous_function(layer.activation):
            return ()
        return (self.makes, ("bias", 0)) if layer.use_bias else (self.makes,)


@layer_kind(layers.Dense)
class Dense(AnyKernel):
    """Kernel (in, out) on the last axis."""

    reads = ("kernel", 0)
    makes = ("kernel", 1)

    def channels(self, call: Call) -> Channels | None:
        """Reads the last axis of the input and makes that of the output."""
        rank = len(call.inputs[0].shape)
        if is_left_whole(call):
            return None
        consume(call, "kernel", 0, on_axis(call, rank - 1, "the dense layer"))
        return check_activation(call, Channels(rank - 1, produce(call, "kernel", 1, "units")))

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """The whole kernel at every position."""
        return 2 * math.prod(outputs[0]) * inputs[0][-1]

    def has_patches(self, layer: Any) -> bool:
        """Each position is one."""
        return True

    def patches(self, layer: Any, x: np.ndarray, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        """The features at each position: a window of one."""
        rows = x.reshape(-1, x.shape[-1])
        return rows[draw(len(rows))][:, None, :]


@layer_kind(layers.Embedding)
class Embedding(LayerKind):
    """A table (words, out): every feature is a channel on the last axis of the output."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """What enters are no channels but words."""
        if is_left_whole(call):
            return None
        call.freeze(f"is looked up in '{call.path}'")
        ids = call.bind("embeddings", 1, "produces")
        call.bind_attribute("output_dim", ids)
        return Channels(len(call.outputs[0].shape) - 1, ids)


class AnyConvolution(AnyKernel):
    """What all convolutions have in common."""

    reads = ("kernel", -2)
    makes = ("kernel", -1)

    def channels(self, call: Call) -> Channels | None:
        """A kernel that reads all channels at once makes new ones."""
        axis = self.channel_axis(call.operation, len(call.inputs[0].shape))
        if is_left_whole(call):
            return None
        consume(call, *self.reads, on_axis(call, axis, "the convolution"))
        return check_activation(call, Channels(axis, produce(call, *self.makes, "filters")))

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """At every output position the whole kernel."""
        return 2 * self._pixels(layer, outputs[0]) * count_weights(layer)

    def _pixels(self, layer: Any, shape: Sizes) -> int:
        """Number of positions in space of a tensor, whose batch axis is 1."""
        return math.prod(shape) // shape[self.channel_axis(layer, len(shape))]

    def open_widths(self, layer: Any) -> Mapping[str, Any]:
        """The bias is added by its own length, not by as many filters as the layer was made with."""
        changes, convolve = self._open_product(layer)
        bias, activation = layer.bias, layer.activation
        along = (-1, *[1] * layer.rank) if layer.data_format == "channels_first" else (-1,)

        def call(inputs: Any) -> Any:
            outputs = convolve(inputs)
            if bias is not None:
                outputs = keras.ops.add(outputs, keras.ops.reshape(bias, along))
            return outputs if activation is None else activation(outputs)

        return {**changes, "use_bias": False, "activation": None, "call": call}

    def _open_product(self, layer: Any) -> tuple[Mapping[str, Any], Callable[[Any], Any]]:
        """The convolution without bias and activation, and what of the layer it needs changed."""
        return {}, layer.call

    def open_widths_of_subclass(self, layer: Any) -> Mapping[str, Any]:
        """A convolution of one's own has its bias shaped by its filters, if it is left to Keras."""
        return {"filters": -1} if hasattr(layer, "filters") else {}


@layer_kind(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class Convolution(AnyConvolution):
    """Kernel (*window, in, out): the input axis reads the channels, the output axis makes new ones."""

    def channels(self, call: Call) -> Channels | None:
        """A grouped one has a kernel (*window, in / groups, out): every group of outputs reads its own run of inputs.

        All groups must stay alike, so there are two ways to shrink: whole groups go, inputs and outputs together, or
        all groups lose the same positions. Whichever leaves more to choose from is taken: whole groups when there are
        more of them than inputs in each. With one input in each this is a depthwise convolution.
        """
        layer = call.operation
        if layer.groups == 1:
            return super().channels(call)
        axis = self.channel_axis(layer, len(call.inputs[0].shape))
        if is_left_whole(call):
            return None
        channels = on_axis(call, axis, "the convolution")
        inputs, outputs = call.inputs[0].shape[axis] // layer.groups, layer.filters // layer.groups
        if channels is None or layer.groups <= inputs:
            # The same position of all groups is coupled, inputs and outputs apart.
            if channels is None:
                consume(call, "kernel", -2, None)
            else:
                rows = channels.ids.reshape(layer.groups, inputs)
                for row in rows[1:]:
                    call.equate(rows[0], row)
                call.bind("kernel", -2, "consumes", rows[0])
            ids = call.bind("kernel", -1, "produces", np.tile(call.new(outputs), layer.groups))
        else:
            firsts = couple_runs(call, channels.ids, layer.groups)
            ids = call.bind("kernel", -1, "follows" if inputs == 1 else "produces", np.repeat(firsts, outputs))
            call.bind_attribute("groups", firsts)
        if layer.use_bias:
            call.bind("bias", 0, "follows", ids)
        call.bind_attribute("filters", ids)
        return check_activation(call, Channels(axis, ids))

    def input_channels(self, layer: Any, member: Member) -> np.ndarray | None:
        """The kernel of a grouped one sees a part of the input at a time: its positions repeat for every group."""
        channels = super().input_channels(layer, member)
        return None if channels is None else np.tile(channels, layer.groups)

    def input_factors(self, layer: Any) -> tuple[Factor, ...]:
        """The input axis of a grouped one serves all groups; with one input in each every output has its own kernel."""
        if layer.groups == 1:
            return (self.reads,)
        return (self.makes,) if keras_internals.layer_variable(layer, "kernel").shape[-2] == 1 else ()

    def has_patches(self, layer: Any) -> bool:
        """A grouped one multiplies a part of each patch with a part of its kernel."""
        return layer.groups == 1

    def patches(self, layer: Any, x: np.ndarray, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        """The windows at the output positions, padding included."""
        x = np.moveaxis(x, self.channel_axis(layer, x.ndim), -1)
        spaces = list(zip(x.shape[1:-1], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True))
        padding = []
        for size, window, stride, dilation in spaces:
            reach = dilation * (window - 1) + 1
            same = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
            known = {"causal": (reach - 1, 0), "valid": (0, 0)}
            padding.append(known.get(layer.padding, (same // 2, same - same // 2)))
        x = np.pad(x, [(0, 0), *padding, (0, 0)])
        outputs = [
            (size + sum(pad) - dilation * (window - 1) - 1) // stride + 1
            for (size, window, stride, dilation), pad in zip(spaces, padding, strict=True)
        ]
        shape = (len(x), *outputs)
        image, *corner = np.unravel_index(draw(math.prod(shape)), shape)
        # One axis for the rows, then one per spatial axis: NumPy broadcasts the indices against each other.
        rank = len(spaces)
        index = [image.reshape(-1, *[1] * rank)]
        for axis, (_, window, stride, dilation) in enumerate(spaces):
            along = [1] * rank
            along[axis] = window
            offsets = (np.arange(window) * dilation).reshape(1, *along)
            index.append((corner[axis] * stride).reshape(-1, *[1] * rank) + offsets)
        return x[tuple(index)].reshape(len(image), -1, x.shape[-1])

    def _open_product(self, layer: Any) -> tuple[Mapping[str, Any], Callable[[Any], Any]]:
        from autoprune.layers import tensorflow_tracing

        call = layer.call
        if layer.groups > 1:
            changes = {}
            if tensorflow_tracing.is_depthwise(layer):
                changes["convolution_op"] = tensorflow_tracing.depthwise_convolution(layer)
            return changes, tensorflow_tracing.compile_by_xla(call)
        return {}, partial(tensorflow_tracing.convolution, layer, call)


@layer_kind(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
class TransposedConvolution(AnyConvolution):
    """Kernel (*window, out, in): as a convolution, with the axes the other way round."""

    reads = ("kernel", -1)
    makes = ("kernel", -2)

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """Every input position is multiplied by the whole kernel."""
        return 2 * self._pixels(layer, inputs[0]) * count_weights(layer)

    def _open_product(self, layer: Any) -> tuple[Mapping[str, Any], Callable[[Any], Any]]:
        from autoprune.layers import tensorflow_tracing

        return {}, partial(tensorflow_tracing.transpose_convolution, layer)


def _spread(call: Call, variable: str, channels: Channels | None) -> np.ndarray:
    """A depthwise kernel (*window, in, multiplier): numbers of its outputs, `multiplier` copies of each input."""
    layer = call.operation
    if channels is None:
        size = keras_internals.layer_variable(layer, variable).shape[-2]
        ids = call.new_fixed(size, f"is read by '{call.path}' from a fixed input")
    else:
        ids = channels.ids
    # Output channel `c * multiplier + m` is filter m of input channel c: all m go when c goes.
    return np.repeat(call.bind(variable, -2, "follows", ids), layer.depth_multiplier)


@layer_kind(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseConvolution(AnyConvolution):
    """Every output channel belongs to one input channel, so that nothing is read of the input as a whole."""

    input_variable = ""
    makes = ("kernel", -2)

    def channels(self, call: Call) -> Channels | None:
        """The kernel and the bias follow the input."""
        axis = self.channel_axis(call.operation, len(call.inputs[0].shape))
        ids = _spread(call, "kernel", on_axis(call, axis, "the convolution"))
        if call.operation.use_bias:
            call.bind("bias", 0, "follows", ids)
        return check_activation(call, Channels(axis, ids))


@layer_kind(layers.SeparableConv1D, layers.SeparableConv2D)
class SeparableConvolution(AnyConvolution):
    """A depthwise kernel that follows the input, then a pointwise kernel that makes new channels."""

    input_variable = "depthwise_kernel"
    reads = ("depthwise_kernel", -2)
    makes = ("pointwise_kernel", -1)

    def channels(self, call: Call) -> Channels | None:
        """The pointwise kernel reads what the depthwise one gives."""
        axis = self.channel_axis(call.operation, len(call.inputs[0].shape))
        ids = _spread(call, "depthwise_kernel", on_axis(call, axis, "the convolution"))
        call.bind("pointwise_kernel", -2, "consumes", ids)
        return check_activation(call, Channels(axis, produce(call, "pointwise_kernel", -1, "filters")))

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """Both kernels at every output position."""
        size = count_weights(layer, "depthwise_kernel") + count_weights(layer, "pointwise_kernel")
        return 2 * self._pixels(layer, outputs[0]) * size

    def input_channels(self, layer: Any, member: Member) -> np.ndarray | None:
        """The depthwise kernel follows its input."""
        return member.channels if (member.name, member.role) == (self.input_variable, "follows") else None
