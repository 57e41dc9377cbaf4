"""Criteria that look at gradients of the loss: what the channel's parameters do to it, and to training.

Under gradient flow, dw/dt = -g, the loss falls by |g|^2, the squared length of the weights changes by -2 w.g, and by
2 (|g|^2 + w.Hg) to second order, with H the Hessian of the loss (Lubana & Dick, 2021, arXiv 2009.11839). What a
parameter adds to these says what training loses with it: magnitude (`l2`), the loss (`loss`), the gradients (`grasp`,
`gradient_norm`). All but `taylor` take the mean gradient g over the batches.

The parameters of a channel go together, so that all that make or follow it, in any layer of the group, are summed, and
the setting `reduction` is not used. Frozen layers give no gradients: a group without trainable parameters is ranked by
`l1`, with a warning.
"""

from collections.abc import Callable, Mapping

import numpy as np

from autoprune.planning.calibration import CalibrationData
from autoprune.planning.importance.combining import MemberScores
from autoprune.planning.importance.context import IMPORTANCES, Criterion, ImportanceContext
from autoprune.planning.importance.gradients import (
    gradients_per_batch,
    hessian_gradients,
    mean_gradients,
)
from autoprune.planning.importance.weights import or_l1
from autoprune.records import ChannelGroup, Member

Arrays = list[np.ndarray]  # One for each of some variables.


class _Parameters:
    """The trainable parameters that make or follow the channels of each group.

    Args:
        context: model, groups and images with labels.

    Attributes:
        data: the calibration data.
        variables: those that hold them, each once.
        weights: their values, in float64.
    """

    def __init__(self, context: ImportanceContext) -> None:
        self._context = context
        self.data: CalibrationData = context.calibration(labels=True)
        self._members: dict[str, list[Member]] = {group.name: [] for group in context.groups}
        for group in context.groups:
            for member in group.members:
                if member.role in ("produces", "follows"):
                    trained = context.layers[member.layer].trainable_variables
                    if id(context.variable(member)) in map(id, trained):
                        self._members[group.name].append(member)
        needed = {id(v): v for of_group in self._members.values() for v in map(context.variable, of_group)}
        self.variables = list(needed.values())
        self.weights = [variable.numpy().astype(np.float64) for variable in self.variables]
        self._places = {key: place for place, key in enumerate(needed)}

    def sums(self, group: ChannelGroup, values: Arrays) -> np.ndarray:
        """(size of the group,) The sum over each channel's parameters of a value that each has."""
        total = np.zeros(group.size)
        for member in self._members[group.name]:
            of_variable = values[self._places[id(self._context.variable(member))]]
            rows = np.moveaxis(of_variable, member.axis, 0)
            held = member.channels >= 0
            np.add.at(total, member.channels[held], rows.reshape(len(rows), -1).sum(1)[held])
        return total

    def criterion(self, scores: Mapping[str, np.ndarray]) -> Criterion:
        """The criterion with these scores of the channels, by group, where there are parameters, and `l1` elsewhere."""
        context = self._context
        frozen = [name for name, of_group in self._members.items() if not of_group]
        whole = {group.name: [MemberScores(np.arange(group.size), scores[group.name])] for group in context.groups}
        reason = (
            "needs gradients, and all layers of %s are frozen: 'l1' ranks their channels instead. Set `trainable = "
            "True` on the layers to score them."
        )
        return or_l1(context, whole, frozen, reason)


@IMPORTANCES.add("taylor")
def taylor(context: ImportanceContext) -> Criterion:
    """First-order Taylor expansion of the loss (Molchanov et al., 2019, arXiv 1906.10771, equation 8).

    For each batch the square of the sum of gradient times weight over the channel's parameters; averaged over batches.
    """
    parameters = _Parameters(context)
    totals = {group.name: np.zeros(group.size) for group in context.groups}
    batches = 0
    for gradients in gradients_per_batch(context.model, parameters.variables, parameters.data):
        batches += 1
        changes = [weight * gradient for weight, gradient in zip(parameters.weights, gradients, strict=True)]
        for group in context.groups:
            totals[group.name] += np.square(parameters.sums(group, changes))
    return parameters.criterion({name: total / batches for name, total in totals.items()})


@IMPORTANCES.add("loss")
def loss(context: ImportanceContext) -> Criterion:
    """Loss preservation: the sum of |w g| over the channel's parameters (Lubana & Dick, 2021, arXiv 2009.11839)."""
    return _score_parameters(context, lambda p: _first_order(context, p, lambda w, g: np.abs(w * g)))


@IMPORTANCES.add("loss_biased")
def loss_biased(context: ImportanceContext) -> Criterion:
    """Loss preservation with a bias to large weights: the sum of |w^2 g| (Lubana & Dick, 2021, arXiv 2009.11839)."""
    return _score_parameters(context, lambda p: _first_order(context, p, lambda w, g: np.abs(w * w * g)))


@IMPORTANCES.add("fisher")
def fisher(context: ImportanceContext) -> Criterion:
    """The sum of w^2 g^2, with g^2 averaged over batches (after Theis et al., 2018, arXiv 1801.05787).

    The average of g^2 is the diagonal of the Fisher information, which stands for the second derivatives there.
    """

    def measure(parameters: _Parameters) -> Arrays:
        squares, batches = [np.zeros_like(weight) for weight in parameters.weights], 0
        for gradients in gradients_per_batch(context.model, parameters.variables, parameters.data):
            batches += 1
            for square, gradient in zip(squares, gradients, strict=True):
                square += gradient**2
        return [w**2 * square / batches for w, square in zip(parameters.weights, squares, strict=True)]

    return _score_parameters(context, measure)


@IMPORTANCES.add("class_saliency")
def class_saliency(context: ImportanceContext) -> Criterion:
    """The sum of |w G|, with G the mean of |g| over batches (Aggarwal et al., 2023, arXiv 2311.14272, CRISP).

    It is a saliency of the classes that the images are of: those of `data.classes` in a search.
    """
    return _score_parameters(context, lambda p: _first_order(context, p, lambda w, g: np.abs(w) * g, absolute=True))


@IMPORTANCES.add("grasp")
def grasp(context: ImportanceContext) -> Criterion:
    """Gradient signal preservation: the sum of w (H g) (Wang et al., 2020, arXiv 2002.07376, with its sign turned).

    It is signed: channels of negative scores, without which the gradients would be longer, go first. Logits are divided
    by the setting `temperature`. H and g are over all trainable variables of the model.
    """
    return _score_parameters(context, lambda p: _second_order(context, p, context.settings.temperature))


@IMPORTANCES.add("gradient_norm")
def gradient_norm(context: ImportanceContext) -> Criterion:
    """Gradient-norm preservation: |sum of w (H g)|, as `grasp` has it at the temperature 1 (Lubana & Dick, 2021).

    What changes the length of the gradients least goes first, whether that makes them longer or shorter: longer
    gradients can ruin a model (arXiv 2009.11839).
    """
    return _score_parameters(context, lambda p: _second_order(context, p, 1.0), np.abs)


def _score_parameters(
    context: ImportanceContext,
    measure: Callable[[_Parameters], Arrays],
    finish: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Criterion:
    """The criterion that sums a value of every parameter over each channel, and finishes the sums by a function."""
    parameters = _Parameters(context)
    values = measure(parameters)
    return parameters.criterion({group.name: finish(parameters.sums(group, values)) for group in context.groups})


def _first_order(
    context: ImportanceContext,
    parameters: _Parameters,
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    absolute: bool = False,
) -> Arrays:
    """A function of weights and their mean gradients, or the mean absolute ones."""
    gradients = mean_gradients(context.model, parameters.variables, parameters.data, absolute=absolute)
    return [value(weight, gradient) for weight, gradient in zip(parameters.weights, gradients, strict=True)]


def _second_order(context: ImportanceContext, parameters: _Parameters, temperature: float) -> Arrays:
    """The products w (H g) of the parameters, with g of the whole model."""
    everything = {id(v): v for v in (*context.model.trainable_variables, *parameters.variables)}
    products = hessian_gradients(context.model, list(everything.values()), parameters.data, temperature)
    found = dict(zip(everything, products, strict=True))
    pairs = zip(parameters.variables, parameters.weights, strict=True)
    return [weight * found[id(variable)] for variable, weight in pairs]
