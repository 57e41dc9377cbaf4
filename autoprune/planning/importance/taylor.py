"""How much the loss would change without the channel, to first order: gradients of the loss, model left as it is.

Keras can take gradients in one way that is the same for every backend, without a framework: its own training step. So a
second model is made over the same layers, is compiled with an optimiser that keeps the gradients and leaves the
variables alone, and takes one step per batch. The first model's compile state, its optimiser and its nodes are not
touched.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from autoprune.errors import DataError, PlanError
from autoprune.models import keras_internals
from autoprune.models.outputs import join
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.planning.calibration import CalibrationData
from autoprune.planning.importance.combining import MemberScores
from autoprune.planning.importance.context import IMPORTANCES, Criterion, ImportanceContext
from autoprune.planning.importance.weights import l1
from autoprune.records import Member
from autoprune.tasks import Judge

logger = logging.getLogger(__name__)


@IMPORTANCES.add("taylor")
def taylor(context: ImportanceContext) -> Criterion:
    """First-order Taylor expansion of the loss (Molchanov et al., 2019, arXiv 1906.10771, equation 8).

    For each batch the square of the sum, over all parameters that make or follow the channel in any layer of the
    group, of gradient times weight; averaged over batches. The parameters of a channel go together, so the members
    are summed before squaring and the setting `reduction` is not used. Frozen layers give no gradients: a group
    without trainable parameters is ranked by `l1`, with a warning.
    """
    data = context.calibration(labels=True)
    members: dict[str, list[Member]] = {group.name: [] for group in context.groups}
    for group in context.groups:
        for member in group.members:
            if member.role in ("produces", "follows"):
                trained = context.layers[member.layer].trainable_variables
                if id(context.variable(member)) in map(id, trained):
                    members[group.name].append(member)
    needed = {id(v): v for of_group in members.values() for v in map(context.variable, of_group)}
    weights = {key: variable.numpy().astype(np.float64) for key, variable in needed.items()}
    totals = {group.name: np.zeros(group.size) for group in context.groups}
    batches = 0
    for gradients in gradients_per_batch(context.model, list(needed.values()), data):
        batches += 1
        changes = {key: gradient * weights[key] for key, gradient in zip(needed, gradients, strict=True)}
        for group in context.groups:
            change = np.zeros(group.size)  # Over each channel's parameters.
            for member in members[group.name]:
                products = np.moveaxis(changes[id(context.variable(member))], member.axis, 0)
                held = member.channels >= 0
                np.add.at(change, member.channels[held], products.reshape(len(products), -1).sum(1)[held])
            totals[group.name] += np.square(change)
    frozen = [name for name, of_group in members.items() if not of_group]
    if frozen:
        logger.warning(
            "The importance 'taylor' needs gradients, and all layers of %s are frozen: 'l1' ranks their channels "
            "instead. Set `trainable = True` on the layers to score them.",
            ", ".join(f"'{name}'" for name in frozen),
        )
    fallback = l1(context)
    scores = {name: total / batches for name, total in totals.items()}
    whole = {group.name: MemberScores(np.arange(group.size), scores[group.name]) for group in context.groups}
    return lambda g: fallback(g) if g.name in frozen else context.combine(g, [whole[g.name]])


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
