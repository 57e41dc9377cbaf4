"""A model's outputs: several in one tensor, and what a classifier's mean, with the losses that belong to them."""

import math
from typing import Any

import keras
import numpy as np

from autoprune.errors import ModelError
from autoprune.models import keras_internals

# Operations that hand a probability on as it is.
_TRANSPARENT = (keras.layers.Flatten, keras.layers.Identity, keras.layers.Reshape)
_NOISE = (keras.layers.AlphaDropout, keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise)


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


def gives_logits(model: Any, output: int = 0, activation: str | None = None) -> bool:
    """Whether an output is not yet a probability: no softmax, or no sigmoid for a single number, makes it.

    Args:
        model: with a graph.
        output: which of its outputs.
        activation: that makes probabilities; None is `softmax`, or `sigmoid` for a single number.
    """
    tensor = model.outputs[output]
    activation = activation or ("sigmoid" if tensor.shape[-1] == 1 else "softmax")
    while True:
        operation = keras_internals.maker_of(tensor)
        if keras_internals.is_graph(operation):
            tensor = keras_internals.graph_of(operation).outputs[0]
            continue
        name = getattr(getattr(operation, "activation", None), "__name__", "")
        if activation in (name, type(operation).__name__.lower()):
            return False
        # Mixed precision ends in a linear activation in float32.
        hands_on = isinstance(operation, keras.layers.Activation) and name == "linear"
        if not hands_on and not isinstance(operation, _TRANSPARENT):
            return True
        tensor = keras_internals.call_of(tensor).input_tensors[0]


def loss_for(model: Any, output: int = 0) -> keras.losses.Loss:
    """Cross-entropy for what an output of the model is: probabilities, logits, or one number."""
    from_logits = gives_logits(model, output)
    if model.outputs[output].shape[-1] == 1:
        return keras.losses.BinaryCrossentropy(from_logits=from_logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def classifier_input(model: Any) -> Any:
    """The symbolic tensor that enters the classifier, the last layer with a kernel, before dropout is done to it.

    Args:
        model: a graph that is walked back from its only output.

    Raises:
        ModelError: on the way there are several tensors, another model, or nothing with a kernel; or the tensor has no
            fixed size.
    """
    tensor = model.outputs[0]
    found = False
    while not found:
        operation, entering = keras_internals.maker_of(tensor), keras_internals.call_of(tensor).input_tensors
        if isinstance(operation, keras.Model) or len(entering) != 1:
            raise ModelError(
                f"Feature distillation needs what enters the classifier, the last layer with a kernel. '{model.name}' "
                f"is walked back from its output through layers that take one tensor; '{operation.name}' "
                f"({type(operation).__name__}) was met, behind which it cannot be found. Set "
                "training.feature_distillation=0, or give the model its classifier at its end."
            )
        found = any(len(keras_internals.shape_of(weight)) > 1 for weight in getattr(operation, "weights", ()))
        tensor = entering[0]
    while isinstance(keras_internals.maker_of(tensor), _NOISE):
        tensor = keras_internals.call_of(tensor).input_tensors[0]
    if None in tensor.shape[1:]:
        raise ModelError(
            f"Feature distillation needs a fixed number of features, and what enters '{operation.name}' of "
            f"'{model.name}' has shape {tensor.shape}. Give the model's input a fixed size, or set "
            "training.feature_distillation=0."
        )
    return tensor


def class_log_probabilities(outputs: Any, *, from_logits: bool) -> Any:
    """Logarithms of a classifier's probabilities, up to rounding.

    Args:
        outputs: (n, classes), or (n, 1) for one number that tells two classes apart.
        from_logits: whether they are logits; otherwise they are probabilities.

    Returns:
        (n, classes), or (n, 2).
    """
    outputs = keras.ops.cast(outputs, "float32")
    if outputs.shape[-1] == 1:
        logit = outputs if from_logits else keras.ops.log(_clip(outputs)) - keras.ops.log(_clip(1 - outputs))
        return keras.ops.concatenate([keras.ops.log_sigmoid(-logit), keras.ops.log_sigmoid(logit)], axis=-1)
    return keras.ops.log_softmax(outputs, axis=-1) if from_logits else keras.ops.log(_clip(outputs))


def _clip(probabilities: Any) -> Any:
    return keras.ops.clip(probabilities, 1e-7, 1.0)


def hard_loss(labels: Any, log_probabilities: Any, smoothing: float = 0.0) -> Any:
    """(n,) cross-entropies with labels, of which a share is spread evenly over all classes.

    Label smoothing of Szegedy et al., 2016 (arXiv 1512.00567, section 7): (1 - s) * label + s / classes.

    Args:
        labels: (n,) class numbers, of any dtype.
        log_probabilities: (n, classes).
        smoothing: s, from 0 to below 1.
    """
    label = keras.ops.one_hot(keras.ops.cast(labels, "int32"), log_probabilities.shape[-1])
    hard = -keras.ops.sum(label * log_probabilities, axis=-1)
    return hard if smoothing == 0 else (1 - smoothing) * hard - smoothing * keras.ops.mean(log_probabilities, axis=-1)
