"""The fine-tuning step as a program for the compiler. Runs in the worker process."""

from typing import Any

import jax
import keras

from autoprune.cost.compiler.programs import Program, abstract
from autoprune.models import keras_internals
from autoprune.models.config import rebuild_without_weights
from autoprune.models.outputs import loss_for


def training_step_program(request: dict[str, Any]) -> Program:
    """Forward pass, loss, backward pass and the optimiser's update, as Keras on JAX runs them.

    Weights and slots are float32; for `bfloat16` the computation is mixed. The state is donated: the step puts the new
    weights in the place of the old ones.

    Args:
        request: `config` (serialised Keras model), `modules` (that its layers come from), `batch_size`
            (on one device), `devices`, `dtype`, `optimizer` (a name that Keras knows).

    Raises:
        ModelError: the model cannot be rebuilt in this process.
    """
    policy = "mixed_bfloat16" if request["dtype"] == "bfloat16" else request["dtype"]
    model = rebuild_without_weights(request["config"], request["modules"], policy)
    optimizer = keras.optimizers.get(request["optimizer"])
    with keras.StatelessScope(initialize_variables=False):
        optimizer.build(model.trainable_variables)
    losses_of = [loss_for(model, output) for output in range(len(model.outputs))]
    structure = keras_internals.input_structure(model)

    def loss(trainable: list[Any], others: list[Any], images: list[Any], labels: list[Any]) -> tuple[Any, list[Any]]:
        packed = keras.tree.pack_sequence_as(structure, list(images))
        outputs, others, penalties = model.stateless_call(trainable, others, packed, training=True, return_losses=True)
        told = zip(losses_of, labels, keras.tree.flatten(outputs), strict=True)
        return sum(loss_of(label, output) for loss_of, label, output in told) + sum(penalties), others

    def step(state: tuple[list[Any], list[Any], list[Any]], batch: tuple[list[Any], list[Any]]) -> tuple[Any, Any]:
        trainable, others, slots = state
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others, *batch)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return (trainable, others, slots), value

    lists = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    count = request["batch_size"] * request["devices"]
    images = [jax.ShapeDtypeStruct((count, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
    # For each output class numbers, or for a single number the value that it shall have.
    labels = [
        jax.ShapeDtypeStruct(shape, "float32") if shape[-1] == 1 else jax.ShapeDtypeStruct(shape[:-1], "int32")
        for shape in [(count, *tensor.shape[1:]) for tensor in model.outputs]
    ]
    return Program(step, tuple(map(abstract, lists)), (images, labels), donated=True)
