"""Dense layers and tables: operations that make new channels on the last axis."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import (
    check_activation,
    consume,
    is_homogeneous_function,
    is_left_whole,
    on_axis,
    produce,
)
from autoprune.layers.kind import Factor, LayerKind, Sizes, layer_kind


@layer_kind(keras.layers.Dense)
class Dense(LayerKind):
    """Kernel (in, out) on the last axis."""

    input_variable = "kernel"

    def channels(self, call: Call) -> Channels | None:
        """Reads the last axis of the input and makes that of the output."""
        rank = len(call.inputs[0].shape)
        if is_left_whole(call):
            return None
        consume(call, "kernel", 0, on_axis(call, rank - 1, "the dense layer"))
        return check_activation(call, Channels(rank - 1, produce(call, "kernel", 1, "units")))

    def input_factors(self, layer: Any) -> tuple[Factor, ...]:
        """The kernel along its input axis."""
        return (("kernel", 0),)

    def output_factors(self, layer: Any) -> tuple[Factor, ...]:
        """The kernel along its output axis, and the bias."""
        if not is_homogeneous_function(layer.activation):
            return ()
        return (("kernel", 1), ("bias", 0)) if layer.use_bias else (("kernel", 1),)

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """The whole kernel at every position."""
        return 2 * math.prod(outputs[0]) * inputs[0][-1]

    def channel_axis(self, layer: Any, rank: int) -> int:
        """The last."""
        return rank - 1

    def has_patches(self, layer: Any) -> bool:
        """Each position is one."""
        return True

    def patches(self, layer: Any, x: np.ndarray, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        """The features at each position: a window of one."""
        rows = x.reshape(-1, x.shape[-1])
        return rows[draw(len(rows))][:, None, :]


@layer_kind(keras.layers.Embedding)
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
