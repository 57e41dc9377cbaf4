"""Operations on one tensor that treat every number, or every channel, by itself."""

import keras
import numpy as np

from autoprune.graph.channels import Channels
from autoprune.graph.rules.common import mixes_channels
from autoprune.graph.rules.registry import channel_rule, raw_rule
from autoprune.graph.trace import Call

layers = keras.layers


@channel_rule(
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.ReLU,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
@raw_rule(
    *("Absolute", "Cast", "Celu", "Clip", "Elu", "Exp", "Gelu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh"),
    *("LeakyRelu", "Log1p", "LogSigmoid", "Negative", "Relu", "Relu6", "Selu", "Sigmoid", "Sign"),
    *("Silu", "SoftShrink", "Softplus", "Softsign", "SparsePlus", "Sqrt", "Square", "Squareplus", "Tanh", "TanhShrink"),
    "Threshold",
)
def unchanged(call: Call) -> Channels | None:
    """Output channels are the input's."""
    (channels,) = call.channels
    return channels


@channel_rule(layers.Activation)
def activation(call: Call) -> Channels | None:
    """As `unchanged`, unless the activation looks across channels, as softmax does."""
    name = mixes_channels(call.operation.activation)
    if name:
        call.freeze(f"passes the activation '{name}' in '{call.path}', which may look across channels")
        return None
    return unchanged(call)


@channel_rule(layers.PReLU)
def parametric_relu(call: Call) -> Channels | None:
    """The slopes `alpha` have the input's shape without the batch axis, and 1 along shared axes."""
    (channels,) = call.channels
    if channels is not None and channels.axis not in (call.operation.shared_axes or ()):
        call.bind("alpha", channels.axis - 1, "follows", channels.ids)
    return channels


@channel_rule(layers.Rescaling)
def rescaling(call: Call) -> Channels | None:
    """A scalar scale and offset change nothing; one value per channel is an attribute that surgery leaves alone."""
    if any(np.ndim(value) > 0 for value in (call.operation.scale, call.operation.offset)):
        call.freeze(f"enters '{call.path}', which has a fixed scale or offset per channel")
        return None
    return unchanged(call)
