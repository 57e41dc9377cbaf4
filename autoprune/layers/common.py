"""Questions that several kinds ask of a call, and what several note in the same way."""

import sys
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.models import keras_internals

# Functions that treat every number by itself, so that removing a channel changes no other, by their names in any of
# these places.
ELEMENTWISE_FUNCTIONS = (
    *("abs", "celu", "cos", "elu", "erf", "exp", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
    *("hard_swish", "hard_tanh", "identity", "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu"),
    *("sigmoid", "silu", "sin", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "square"),
    *("squareplus", "swish", "tanh", "tanh_shrink", "threshold"),
)
HOMOGENEOUS_FUNCTIONS = ("identity", "leaky_relu", "linear", "relu")
_PLACES = (
    *("keras.activations", "keras.ops", "tensorflow", "tensorflow.nn", "tensorflow.math", "jax.nn", "jax.numpy"),
    *("torch", "torch.nn.functional"),
)

ELEMENTWISE_LAYERS = (keras.layers.ELU, keras.layers.LeakyReLU, keras.layers.ReLU)


def mixes_channels(activation: Any) -> str:
    """Name of an activation that looks across channels (softmax) or is unknown; empty when it is elementwise."""
    if activation is None:
        return ""
    if isinstance(activation, keras.layers.Activation):
        return mixes_channels(activation.activation)
    if isinstance(activation, keras.Layer):
        # By its class and not its name, which is the user's; a layer with weights of its own is none of these.
        return "" if type(activation) in ELEMENTWISE_LAYERS else type(activation).__name__
    # Of the backends those that are loaded: a function of another one cannot be here.
    for root, *inner in (path.split(".") for path in _PLACES):
        if root not in sys.modules:
            continue
        place: Any = sys.modules[root]
        for name in inner:
            place = getattr(place, name, None)
        if any(getattr(place, name, None) is activation for name in ELEMENTWISE_FUNCTIONS):
            return ""
    return str(getattr(activation, "__name__", type(activation).__name__))


def is_homogeneous_function(activation: Any) -> bool:
    """Whether an activation gives s times as much for s times as much, s >= 0, as rectifiers do."""
    if isinstance(activation, keras.layers.Activation):
        return is_homogeneous_function(activation.activation)
    if type(activation) is keras.layers.ReLU:
        return activation.max_value is None and not activation.threshold
    if isinstance(activation, keras.Layer):
        return type(activation) is keras.layers.LeakyReLU
    return activation is None or (
        getattr(activation, "__name__", "") in HOMOGENEOUS_FUNCTIONS and not mixes_channels(activation)
    )


def check_activation(call: Call, output: Channels) -> Channels:
    """Freeze a layer's output when its built-in activation looks across channels."""
    name = mixes_channels(getattr(call.operation, "activation", None))
    if name:
        call.freeze(f"passes the activation '{name}' of '{call.path}', which may look across channels", output.ids)
    return output


def only_input(call: Call) -> Channels | None:
    """The only input's channels; freezes those of all inputs where there are several, such as tensors for options."""
    if len(call.channels) > 1:
        call.freeze(f"enters '{call.path}' together with other tensors")
        return None
    return call.channels[0]


def follow_values(call: Call, channels: Channels, names: Iterable[str]) -> Channels:
    """Let attributes that are broadcast with the only input, such as the bounds of a clip, follow its channels.

    One with a value for each channel is cut with them; one that cannot be, such as a tensor, freezes them.
    """
    rank = len(call.inputs[0].shape)
    axis = channels.axis - rank
    for name in names:
        value = getattr(call.operation, name, None)
        shape = shape_of(value)
        if len(shape) < -axis or (shape[axis] == 1 and len(shape) <= rank):
            continue
        if isinstance(value, (list, tuple, np.ndarray)) and shape[axis] == len(channels.ids) and len(shape) <= rank:
            call.bind_values(name, axis, channels.ids)
        else:
            call.freeze(f"is combined in '{call.path}' with a value for each channel in its {name}", channels.ids)
    return channels


def shape_of(value: Any) -> tuple[int, ...]:
    """Shape of a list, array, tensor or variable; of anything else that of a single number."""
    return np.shape(value) if isinstance(value, (list, tuple)) else tuple(getattr(value, "shape", ()))


def on_axis(call: Call, axis: int, what: str) -> Channels | None:
    """The only input's channels when they lie on `axis`; otherwise freezes them and returns None."""
    channels = only_input(call)
    if channels is not None and channels.axis != axis:
        call.freeze(f"enters '{call.path}' on axis {channels.axis}, but {what} works on axis {axis}")
        return None
    return channels


def couple_runs(call: Call, ids: np.ndarray, runs: int) -> np.ndarray:
    """Let every one of `runs` equal runs of consecutive channels go or stay as a whole; returns the first of each."""
    rows = ids.reshape(runs, -1)
    for column in range(1, rows.shape[1]):
        call.equate(rows[:, 0], rows[:, column])
    return rows[:, 0]


def is_left_whole(call: Call) -> bool:
    """Whether this instance of a layer cannot be pruned; the call is told why."""
    layer = call.operation
    if getattr(layer, "lora_enabled", False):
        call.leave_whole("has LoRA weights")
        return True
    if layer.quantization_mode is not None:
        call.leave_whole(f"is quantised ({layer.quantization_mode})")
        return True
    return False


def consume(call: Call, variable: str, axis: int, channels: Channels | None) -> None:
    """Bind the input axis of a kernel; an input nothing of which can be removed fixes it."""
    if channels is not None:
        call.bind(variable, axis, "consumes", channels.ids)
        return
    size = keras_internals.layer_variable(call.operation, variable).shape[axis]
    call.bind(variable, axis, "consumes", call.new_fixed(size, f"is read by '{call.path}' from a fixed input"))


def produce(call: Call, variable: str, axis: int, attribute: str) -> np.ndarray:
    """Bind the output axis of a kernel with the bias and the attribute that counts it; returns the numbers."""
    ids = call.bind(variable, axis, "produces")
    if call.operation.use_bias:
        call.bind("bias", 0, "follows", ids)
    call.bind_attribute(attribute, ids)
    return ids
