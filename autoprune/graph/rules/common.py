"""Questions that several rules ask."""

from typing import Any

import keras
import numpy as np

from autoprune.graph.channels import Channels
from autoprune.graph.trace import Call

# Activations that treat every number by itself, so that removing a channel changes no other.
ELEMENTWISE_ACTIVATIONS = frozenset(
    {
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh"),
        *("leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink"),
        *("softplus", "softsign", "sparse_plus", "squareplus", "swish", "tanh", "tanh_shrink", "threshold"),
    }
)

ELEMENTWISE_LAYERS = (keras.layers.ELU, keras.layers.LeakyReLU, keras.layers.ReLU)


def channel_axis(layer: Any, rank: int) -> int:
    """The axis that a layer with a `data_format` takes for the channels of a tensor of this rank."""
    return 1 if layer.data_format == "channels_first" else rank - 1


def mixes_channels(activation: Any) -> str:
    """Name of an activation that looks across channels (softmax) or is unknown; empty when it is elementwise."""
    if activation is None:
        return ""
    if isinstance(activation, keras.layers.Activation):
        return mixes_channels(activation.activation)
    if isinstance(activation, keras.Layer):
        # By its class and not its name, which is the user's; a layer with weights of its own is none of these.
        return "" if type(activation) in ELEMENTWISE_LAYERS else type(activation).__name__
    name = getattr(activation, "__name__", type(activation).__name__)
    known = getattr(keras.activations, name, None) is activation
    return "" if known and name in ELEMENTWISE_ACTIVATIONS else str(name)


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
