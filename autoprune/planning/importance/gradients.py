"""Gradients of the loss without importing a framework and without changing the model.

Keras can take gradients in one way that is the same for every backend: its own training step. So a second model is
made over the same layers, is compiled with an optimiser that keeps the gradients and leaves the variables alone, and
takes one step per batch. The first model's compile state, its optimiser and its nodes are not touched.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from autoprune.errors import DataError, PlanError
from autoprune.models import keras_internals
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.planning.calibration import CalibrationData
from autoprune.tasks import Judge
from autoprune.tasks.judge import join


def gradients_per_batch(model: Any, variables: Sequence[Any], data: CalibrationData) -> Iterator[list[np.ndarray]]:
    """For each batch the gradients of its mean loss, in inference mode, without regularisation.

    Args:
        model: carries out the data's task, such as a classifier with one output (n, classes): probabilities, logits, or
            one number for two classes.
        variables: trainable variables of the model.
        data: with labels. A shorter last batch is left out, unless it is the only one.

    Yields:
        The gradients in float64, each in the shape of its variable.

    Raises:
        PlanError: the model has other outputs than the task, or a label has no output.
        DataError: the labels are no class numbers.
    """
    judge = _judge(model, data)
    recorder = _Recorder(variables)
    inputs = model.inputs[0] if len(model.inputs) == 1 else keras_internals.input_structure(model)
    probe = _Probe(inputs, join(model.outputs), name="gradients")
    probe.criterion = judge.loss()
    # Eagerly: nothing is traced for a few batches, and under JAX no buffer of the model is donated to a compiled step.
    probe.compile(recorder, run_eagerly=True, jit_compile=False, auto_scale_loss=False)
    with safe_convolutions(model):
        for images, labels in data.batches(whole=True):
            if data.task.names_classes and labels is not None:
                classes = max(model.outputs[0].shape[-1], 2)
                if labels.min() < 0 or labels.max() >= classes:
                    raise PlanError(
                        f"'{model.name}' tells {classes} classes apart (0 to {classes - 1}). Received labels from "
                        f"{labels.min()} to {labels.max()}."
                    )
            probe.train_on_batch(images, labels)
            yield recorder.gradients


def _judge(model: Any, data: CalibrationData) -> Judge:
    """What the labels say of the model's outputs.

    Raises:
        PlanError: they do not fit.
    """
    shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
    if data.task.names_classes and (len(shapes) != 1 or len(shapes[0]) != 1):
        raise PlanError(
            "Gradients are taken of a classifier's loss: the model has one output of shape (n, classes). "
            f"'{model.name}' has {len(shapes)} of shape {shapes}. Say what they are for in a data set with a task, or "
            "choose an importance that needs no labels, such as 'activation' or 'l1'."
        )
    try:
        return Judge(data.task, model)
    except DataError as error:
        raise PlanError(str(error)) from error


class _Probe(keras.Model):
    """A Functional model over the layers of another, which runs in inference mode also when it is trained."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """No `training` argument: Keras then passes none on, and layers within custom layers stay in inference too."""
        return super().call(inputs, training=False, mask=mask)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss of the data alone: penalties on weights and activations say nothing about a channel's use."""
        return self.criterion(y, y_pred)


class _Recorder(keras.Optimizer):
    """An optimiser that notes the gradients of some variables and changes none."""

    def __init__(self, variables: Sequence[Any]) -> None:
        super().__init__(learning_rate=0.0, name="recorder")
        self._wanted = list(variables)
        self._slots: dict[int, Any] = {}

    def build(self, variables: list[Any]) -> None:
        """Make a slot for each variable that is wanted."""
        if self.built:
            return
        super().build(variables)
        slots = self.add_optimizer_variables(self._wanted, "gradient")
        self._slots = {id(variable): slot for variable, slot in zip(self._wanted, slots, strict=True)}

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Note. The inherited one would also apply constraints to the variables."""
        known = list(trainable_variables or self._trainable_variables)
        self.build(known)
        for gradient, variable in zip(grads, known, strict=True):
            if gradient is not None and id(variable) in self._slots:
                # Those of an embedding are sparse under TensorFlow.
                self.assign(self._slots[id(variable)], keras.ops.convert_to_tensor(gradient))

    @property
    def gradients(self) -> list[np.ndarray]:
        """The last step's gradients of the variables that were wanted, in their order."""
        return [self._slots[id(v)].numpy().astype(np.float64) for v in self._wanted]
