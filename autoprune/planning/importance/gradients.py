"""Gradients of the loss, the same way for every backend, and the Hessian times them: the model stays as it is.

Keras can take gradients without a framework in one way: its own training step. So a second model is made over the same
layers, is compiled with an optimiser that keeps the gradients and leaves the variables alone, and takes one step per
batch. The first model's compile state, its optimiser and its nodes are not touched. For second derivatives Keras has no
way: `second_order.py` asks the backend.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.errors import DataError, PlanError
from autoprune.models import keras_internals
from autoprune.models.outputs import join
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.planning.calibration import CalibrationData
from autoprune.planning.importance.second_order import multiply_hessian
from autoprune.tasks import Judge
from autoprune.tasks.heads import Classes


def gradients_per_batch(
    model: Any, variables: Sequence[Any], data: CalibrationData, temperature: float = 1.0
) -> Iterator[list[np.ndarray]]:
    """For each batch the gradients of its mean loss, in inference mode, without regularisation.

    Args:
        model: carries out the data's task, such as a classifier with one output (n, classes): probabilities, logits, or
            one number for two classes.
        variables: trainable variables of the model.
        data: with labels. A shorter last batch is left out, unless it is the only one.
        temperature: what logits are divided by; outputs that are numbers, or have a loss of their own, have none.

    Yields:
        The gradients in float64, each in the shape of its variable.

    Raises:
        PlanError: the model has other outputs than the task, or a label has no output.
        DataError: the labels are no class numbers.
    """
    recorder = _Recorder(variables)
    probe = _make_probe(model, data, temperature)
    # Eagerly: nothing is traced for a few batches, and under JAX no buffer of the model is donated to a compiled step.
    probe.compile(recorder, run_eagerly=True, jit_compile=False, auto_scale_loss=False)
    with safe_convolutions(model):
        for images, labels in _batches_with_labels(model, data):
            probe.train_on_batch(images, labels)
            yield recorder.gradients


def mean_gradients(
    model: Any, variables: Sequence[Any], data: CalibrationData, temperature: float = 1.0, *, absolute: bool = False
) -> list[np.ndarray]:
    """The gradients of the mean loss over all batches, see `gradients_per_batch`.

    Args:
        model: see `gradients_per_batch`.
        variables: trainable variables of the model.
        data: with labels.
        temperature: what logits are divided by.
        absolute: whether the mean over batches is of the gradients' absolute values.
    """
    totals, batches = [np.zeros(keras_internals.shape_of(variable)) for variable in variables], 0
    for gradients in gradients_per_batch(model, variables, data, temperature):
        batches += 1
        for total, gradient in zip(totals, gradients, strict=True):
            total += np.abs(gradient) if absolute else gradient
    return [total / batches for total in totals]


def hessian_gradients(
    model: Any, variables: Sequence[Any], data: CalibrationData, temperature: float = 1.0
) -> list[np.ndarray]:
    """The Hessian H of the mean loss times its gradient g: how g changes along itself.

    Args:
        model: see `gradients_per_batch`.
        variables: trainable variables that H and g are over.
        data: with labels.
        temperature: what logits are divided by.

    Returns:
        H g in float64, for each variable in its shape.

    Raises:
        PlanError: an operation of the model has no second derivative in the backend; or as for gradients.
        DataError: the labels are no class numbers.
    """
    gradients = mean_gradients(model, variables, data, temperature)
    probe = _make_probe(model, data, temperature)
    totals, batches = [np.zeros_like(gradient) for gradient in gradients], 0
    with safe_convolutions(model):
        for images, labels in _batches_with_labels(model, data):
            batches += 1
            loss = partial(probe.loss_of, images, keras.ops.convert_to_tensor(labels))
            products = multiply_hessian(loss, variables, gradients)
            for total, product in zip(totals, products, strict=True):
                total += product
    return [total / batches for total in totals]


def _make_probe(model: Any, data: CalibrationData, temperature: float) -> "_Probe":
    """A model over the layers of another, with the loss of the data's task.

    Raises:
        PlanError: the task does not fit the model.
    """
    shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
    if data.task.names_classes and (len(shapes) != 1 or len(shapes[0]) != 1):
        raise PlanError(
            "Gradients are taken of a classifier's loss: the model has one output of shape (n, classes). "
            f"'{model.name}' has {len(shapes)} of shape {shapes}. Say what they are for in a data set with a task, or "
            "choose an importance that needs no labels, such as 'activation' or 'l1'."
        )
    try:
        judge = Judge(data.task, model)
    except DataError as error:
        raise PlanError(str(error)) from error
    inputs = model.inputs[0] if len(model.inputs) == 1 else keras_internals.input_structure(model)
    probe = _Probe(inputs, join(model.outputs), name="gradients")
    probe.criterion = judge.loss() if temperature == 1 else _TemperedLoss(judge, temperature)
    return probe


def _batches_with_labels(model: Any, data: CalibrationData) -> Iterator[tuple[Any, np.ndarray | None]]:
    """Whole batches, unless there is but one.

    Raises:
        PlanError: a class has no output.
    """
    for images, labels in data.batches(whole=True):
        if data.task.names_classes and labels is not None:
            classes = max(model.outputs[0].shape[-1], 2)
            if labels.min() < 0 or labels.max() >= classes:
                raise PlanError(
                    f"'{model.name}' tells {classes} classes apart (0 to {classes - 1}). Received labels from "
                    f"{labels.min()} to {labels.max()}."
                )
        yield images, labels


class _TemperedLoss(keras.losses.Loss):
    """The task's loss of outputs whose logits are divided by a temperature."""

    def __init__(self, judge: Judge, temperature: float) -> None:
        super().__init__(name="tempered_loss")
        self._judge = judge
        self._temperature = temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(n,) losses of labels and joined outputs."""
        softened = []
        for head, told in zip(self._judge.heads, self._judge.tell(y_pred), strict=True):
            divided = told / self._temperature if head.softens else told
            # Logarithms of probabilities are of probabilities again.
            softened.append(keras.ops.log_softmax(divided, axis=-1) if isinstance(head, Classes) else divided)
        return self._judge.losses(y_true, y_pred, softened)


class _Probe(keras.Model):
    """A Functional model over the layers of another, which runs in inference mode also when it is trained."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """No `training` argument: Keras then passes none on, and layers within custom layers stay in inference too."""
        return super().call(inputs, training=False, mask=mask)

    def loss_of(self, images: Any, labels: Any) -> Any:
        """The mean loss of a batch, a scalar tensor."""
        return self.criterion(labels, self(images))

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
