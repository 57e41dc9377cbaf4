"""What is given to the compiler: functions to trace, and the shapes of their arguments. Runs in the worker process."""

import base64
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import keras
from jax.extend import mlir

from autoprune.models import keras_internals
from autoprune.models.config import rebuild_without_weights


@dataclass(frozen=True)
class Program:
    """A function of two arguments, which `jax.jit` traces.

    Attributes:
        function: takes state and batch.
        state: `jax.ShapeDtypeStruct` of what lies on every device, such as the weights, in any structure.
        batch: `jax.ShapeDtypeStruct` of what has one entry per example on its first axis, in any structure.
        paths: paths of the model's operations, which are the scopes that the function's operations are traced in.
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
    model = rebuild_without_weights(request["config"], request["modules"], request["dtype"])
    return forward_pass(model, request["batch_size"])


def forward_pass(model: Any, batch_size: int) -> Program:
    """The inference of a model whose variables need no values."""
    structure = keras_internals.input_structure(model)

    def forward(state: tuple[list[Any], list[Any]], batch: list[Any]) -> Any:
        return model.stateless_call(*state, keras.tree.pack_sequence_as(structure, list(batch)), training=False)[0]

    return Program(
        forward,
        (abstract(model.trainable_variables), abstract(model.non_trainable_variables)),
        [jax.ShapeDtypeStruct((batch_size, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs],
        tuple(keras_internals.operations_by_path(model)),
    )


def hlo_program(request: dict[str, Any]) -> Program:
    """A forward pass that another process has traced with TensorFlow, as `tensorflow_program.py` describes it.

    Args:
        request: `hlo` (serialised HLO module, base64), `arguments` and `outputs` (pairs of shape and dtype), `state`
            (how many of the arguments come before the inputs), `paths`.
    """
    arguments, outputs = (
        [jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for shape, dtype in request[name]]
        for name in ("arguments", "outputs")
    )
    count = request["state"]

    def template(*_: Any) -> list[jax.Array]:
        return [jnp.zeros(output.shape, output.dtype) for output in outputs]

    # JAX runs foreign code as something it has exported itself: an export of the same signature, its body replaced.
    exported = jax.export.export(jax.jit(template, keep_unused=True), platforms=["tpu"])(*arguments)
    exported = dataclasses.replace(
        exported,
        mlir_module_serialized=mlir.hlo_to_stablehlo(base64.b64decode(request["hlo"])),
        module_kept_var_idx=tuple(range(len(arguments))),
    )

    def forward(state: list[Any], batch: list[Any]) -> Any:
        return exported.call(*state, *batch)

    return Program(forward, arguments[:count], arguments[count:], tuple(request["paths"]))


def abstract(variables: list[Any]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of variables."""
    return [jax.ShapeDtypeStruct(tuple(variable.shape), variable.dtype) for variable in variables]
