"""What is given to the compiler: functions to trace, and the shapes of their arguments. Runs in the worker process."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import keras

from autoprune.errors import ModelError
from autoprune.models import keras_internals


@dataclass(frozen=True)
class Program:
    """A function of two arguments, which `jax.jit` traces.

    Attributes:
        function: of state and batch.
        state: `jax.ShapeDtypeStruct` of what lies on every device, such as the weights, in any structure.
        batch: likewise of what has one entry per example on its first axis.
        paths: of the model's operations, whose scopes the function's operations are traced in.
        donated: whether the function's results may take the place of its state.
    """

    function: Callable[[Any, Any], Any]
    state: Any
    batch: Any
    paths: tuple[str, ...] = ()
    donated: bool = False


def inference_program(request: dict[str, Any]) -> Program:
    """The forward pass of a model that is rebuilt from its config.

    Args:
        request: `config` (serialised Keras model), `modules` (that its layers come from), `batch_size`, `dtype`.

    Raises:
        ModelError: the model cannot be rebuilt in this process.
    """
    with keras.StatelessScope(initialize_variables=False):
        # Shapes are all the compiler needs: no weight is ever made.
        model = rebuilt(with_dtype(request["config"], request["dtype"]), request["modules"])
    structure = keras_internals.input_structure(model)

    def forward(state: tuple[list, list], batch: list) -> Any:
        return model.stateless_call(*state, keras.tree.pack_sequence_as(structure, list(batch)), training=False)[0]

    return Program(
        forward,
        (abstract(model.trainable_variables), abstract(model.non_trainable_variables)),
        [jax.ShapeDtypeStruct((request["batch_size"], *t.shape[1:]), t.dtype) for t in model.inputs],
        tuple(keras_internals.operations_by_path(model)),
    )


def abstract(variables: list[Any]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of variables."""
    return [jax.ShapeDtypeStruct(tuple(variable.shape), variable.dtype) for variable in variables]


def rebuilt(config: Any, modules: list[str]) -> Any:
    """The model of a config, once the modules of its layers' classes are imported, which registers them.

    Raises:
        ModelError: it holds a layer that this process cannot import.
    """
    try:
        for module in modules:
            importlib.import_module(module)
        return keras.saving.deserialize_keras_object(config)
    except (ImportError, TypeError) as error:
        raise ModelError(
            "The compiler works in a process of its own, which could not rebuild the model. A layer of your own must "
            "lie in a module that can be imported, not in the script that is run, and be registered there with "
            f"keras.saving.register_keras_serializable. Keras says: {str(error)[:1500]}"
        ) from error


def with_dtype(config: Any, dtype: str) -> Any:
    """The model's config with every layer's dtype policy replaced; input dtypes stay."""
    if isinstance(config, list):
        return [with_dtype(item, dtype) for item in config]
    if not isinstance(config, dict):
        return config
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": dtype},
        "registered_name": None,
    }
    return {
        key: policy if key == "dtype" and isinstance(value, dict) else with_dtype(value, dtype)
        for key, value in config.items()
    }
