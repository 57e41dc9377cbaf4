"""Operations on one tensor that treat every number, or every channel, by itself."""

import inspect
from typing import Any

import keras

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import follow_values, is_homogeneous_function, mixes_channels, on_axis, only_input
from autoprune.layers.kind import LayerKind, layer_kind, raw_kind
from autoprune.models import keras_internals

layers = keras.layers
_StochasticDepth = keras_internals.application_class("convnext", "StochasticDepth")
# Besides rectifiers.
_HOMOGENEOUS = (
    *(layers.GaussianDropout, layers.Identity, layers.SpatialDropout1D, layers.SpatialDropout2D),
    *(layers.SpatialDropout3D, _StochasticDepth),
)


@layer_kind(
    layers.ActivityRegularization,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.ReLU,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.UnitNormalization,
    _StochasticDepth,
)
@raw_kind(
    *("Absolute", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Expm1", "Floor", "Gelu", "HardShrink"),
    *("HardSigmoid", "HardSilu", "HardTanh", "Log", "Reciprocal", "Round", "Rsqrt", "Sin"),
    *("LeakyRelu", "Log1p", "LogSigmoid", "Negative", "Relu", "Relu6", "Selu", "Sigmoid", "Sign"),
    *("Silu", "SoftShrink", "Softplus", "Softsign", "SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Squareplus"),
    *("Tanh", "TanhShrink", "Threshold"),
)
class Elementwise(LayerKind):
    """Output channels are the input's."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """Options with a value for each channel, such as bounds, follow them."""
        channels = only_input(call)
        if channels is None:
            return None
        options = set(inspect.signature(type(call.operation).__init__).parameters)
        return follow_values(call, channels, sorted(options - {"axis"}))

    def is_homogeneous(self, operation: Any) -> bool:
        """Rectifiers are, and what leaves numbers as they are or drops some of them."""
        if isinstance(operation, keras.Layer):
            return isinstance(operation, _HOMOGENEOUS) or is_homogeneous_function(operation)
        return keras_internals.raw_operation_name(operation) in ("Absolute", "LeakyRelu", "Negative", "Relu")


@layer_kind(layers.AlphaDropout, layers.Dropout)
class Dropout(LayerKind):
    """Output channels are the input's."""

    flops = 0
    attributes_in_call = ("noise_shape",)

    def channels(self, call: Call) -> Channels | None:
        """A size in `noise_shape`, which has the axes of the input, follows the channels."""
        channels = only_input(call)
        shape = call.operation.noise_shape
        if channels is not None and shape is not None and shape[channels.axis] not in (None, 1):
            call.bind_attribute("noise_shape", channels.ids, channels.axis)
        return channels

    def is_homogeneous(self, operation: Any) -> bool:
        """Another value than zero for what is dropped is not scaled."""
        return not isinstance(operation, layers.AlphaDropout)


@layer_kind(layers.Activation)
class Activation(Elementwise):
    """Any function."""

    def channels(self, call: Call) -> Channels | None:
        """Unless the activation looks across channels, as softmax does, the output's channels are the input's."""
        name = mixes_channels(call.operation.activation)
        if name:
            call.freeze(f"passes the activation '{name}' in '{call.path}', which may look across channels")
            return None
        return super().channels(call)


@layer_kind(layers.PReLU)
class ParametricRelu(LayerKind):
    """Slopes `alpha` of the input's shape without the batch axis, and 1 along shared axes."""

    flops = 0
    homogeneous = True

    def channels(self, call: Call) -> Channels | None:
        """The slopes follow."""
        channels = only_input(call)
        if channels is not None and channels.axis not in (call.operation.shared_axes or ()):
            call.bind("alpha", channels.axis - 1, "follows", channels.ids)
        return channels


@layer_kind(layers.Rescaling)
class Rescaling(LayerKind):
    """A scale and an offset that are no variables."""

    flops = 0
    attributes_in_call = ("offset", "scale")

    def channels(self, call: Call) -> Channels | None:
        """Single numbers change nothing; values per channel are attributes that follow the channels."""
        channels = only_input(call)
        return None if channels is None else follow_values(call, channels, ("offset", "scale"))


@layer_kind(keras_internals.application_class("convnext", "LayerScale"))
class LayerScale(LayerKind):
    """A learnt factor per channel on the last axis."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """The factors and their number follow."""
        channels = on_axis(call, len(call.inputs[0].shape) - 1, "the scale")
        if channels is not None:
            call.bind("gamma", 0, "follows", channels.ids)
            call.bind_attribute("projection_dim", channels.ids)
        return channels


@layer_kind(layers.Softmax)
@raw_kind("LogSoftmax", "Softmax")
class Softmax(LayerKind):
    """Shares that sum to 1 along some axes."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """Along other axes than the channels' (attention over pixels) every channel is by itself."""
        channels = only_input(call)
        if channels is None:
            return None
        axes = keras.tree.flatten(call.operation.axis)
        if None in axes or channels.axis in [axis % len(call.inputs[0].shape) for axis in axes]:
            call.freeze(f"enters '{call.path}', which is a softmax across the channels")
            return None
        return channels
