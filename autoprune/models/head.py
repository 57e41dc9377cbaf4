"""What a classifier's output means: probabilities or logits, and the loss that belongs to it."""

from typing import Any

import keras

from autoprune.models import keras_internals

# Operations that hand a probability on as it is.
_TRANSPARENT = (keras.layers.Flatten, keras.layers.Identity, keras.layers.Reshape)


def gives_logits(model: Any) -> bool:
    """Whether the only output is not yet a probability: no softmax, or no sigmoid for a single number, makes it."""
    activation = "sigmoid" if model.outputs[0].shape[-1] == 1 else "softmax"
    tensor = model.outputs[0]
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
        tensor = keras_internals.calls_of(operation)[0].input_tensors[0]


def loss_for(model: Any) -> keras.losses.Loss:
    """Cross-entropy for what the model puts out: probabilities, logits, or one number."""
    from_logits = gives_logits(model)
    if model.outputs[0].shape[-1] == 1:
        return keras.losses.BinaryCrossentropy(from_logits=from_logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
