"""Route by TensorFlow: what the compiler is given of layers that exist in TensorFlow only.

The forward pass is traced here, in the asking process, and leaves it as an HLO module; the worker (`programs.py`,
`hlo_program`) turns that into StableHLO and compiles it for the described chip. Layers need not be importable
elsewhere. Kernels come out slightly different from those of Keras on JAX: figures of the two routes do not compare.
"""

import base64
from typing import Any

import keras
import tensorflow as tf

from autoprune.errors import RouteError, words_of
from autoprune.models import keras_internals
from autoprune.models.config import Modules, rebuild_without_weights


def export_forward_pass(config: Any, modules: Modules, batch_size: int, dtype: str) -> dict[str, Any]:
    """The request for the compilation of a model's forward pass.

    Args:
        config: the serialised model.
        modules: those that its layers come from.
        batch_size: images per call.
        dtype: dtype of weights and computation, such as `bfloat16`.

    Raises:
        RouteError: Keras cannot rebuild the model from its config, or XLA cannot express one of its operations.
    """
    try:
        model = rebuild_without_weights(config, modules, dtype)
        trainable, others = model.trainable_variables, model.non_trainable_variables
        first, state = len(trainable), len(trainable) + len(others)
        structure = keras_internals.input_structure(model)

        def forward(*arguments: Any) -> list[Any]:
            inputs = keras.tree.pack_sequence_as(structure, list(arguments[state:]))
            outputs = model.stateless_call(arguments[:first], arguments[first:state], inputs, training=False)[0]
            return keras.tree.flatten(outputs)

        arguments = [tf.TensorSpec(variable.shape, variable.dtype) for variable in (*trainable, *others)]
        arguments += [tf.TensorSpec((batch_size, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
        function = tf.function(forward, jit_compile=True, autograph=False)
        module = function.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
        outputs = function.get_concrete_function(*arguments).structured_outputs
    except Exception as error:  # whatever the layers of a model raise
        raise RouteError(f"TensorFlow cannot hand the model to the compiler: {words_of(error, 1500)}") from error
    return {
        "program": "exported",
        "hlo": base64.b64encode(module).decode(),
        "arguments": [[list(spec.shape), spec.dtype.name] for spec in arguments],
        "outputs": [[list(spec.shape), spec.dtype.name] for spec in outputs],
        "state": state,
        "paths": list(keras_internals.operations_by_path(model)),
    }
