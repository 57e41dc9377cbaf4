"""Outputs of a model as one tensor: the only one as it is, several flattened one behind the other."""

import math
from typing import Any

import keras
import numpy as np

from autoprune.models import keras_internals


def flatten(array: Any) -> Any:
    """(n, k) of (n, ...), arrays and tensors."""
    reshape = np.reshape if isinstance(array, np.ndarray) else keras.ops.reshape
    count = array.shape[0] if isinstance(array, np.ndarray) else -1
    return reshape(array, (count, math.prod(array.shape[1:]) if None not in array.shape[1:] else -1))


class JoinedOutputs(keras.Model):
    """A model of several outputs that gives them in one tensor, to be trained in its place.

    It holds the very layers and variables of the model, in the same order.

    Args:
        model: with a graph.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(name="joined_outputs", dtype="float32")
        self._inner = model

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """(n, k) float32."""
        return join(self._inner(inputs, training=training))


def join(outputs: Any) -> Any:
    """The only output, or several in one float32 tensor (n, k)."""
    parts = keras.tree.flatten(outputs)
    if len(parts) == 1:
        return parts[0]
    return keras.ops.concatenate([flatten(keras.ops.cast(part, "float32")) for part in parts], axis=-1)


def run_joined(model: Any, images: Any, training: bool = False) -> Any:
    """Joined outputs of a model that is run eagerly."""
    return join(keras_internals.run_on(model, images, training=training))
