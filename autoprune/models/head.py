"""The end of a classifier: what its output means, the loss that belongs to it, and what its last kernel reads."""

from typing import Any

import keras

from autoprune.errors import ModelError
from autoprune.models import keras_internals

# Operations that hand a probability on as it is.
_TRANSPARENT = (keras.layers.Flatten, keras.layers.Identity, keras.layers.Reshape)
_NOISE = (keras.layers.AlphaDropout, keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise)


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
