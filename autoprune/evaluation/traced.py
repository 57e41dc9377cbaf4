"""A network's passes, compiled once for all plans that it may be pruned by.

A function that is traced for the shapes of one plan is of no use to the next, and tracing takes longer than ten steps
of tuning. Here the variables are arguments of the function and their lengths are left open, and so is which branches
there are: one trace serves every plan, and what runs is as small as the pruned network. `tests/benchmarks/traced.py`
compares with running eagerly.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autoprune.errors import words_of
from autoprune.evaluation.optional_branches import OptionalBranches
from autoprune.evaluation.recovery import collecting, layers_to_recalibrate
from autoprune.layers import kind_of, open_widths
from autoprune.models import keras_internals
from autoprune.models.outputs import join, run_joined
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.records import Branch, ChannelGroup, Member

logger = logging.getLogger(__name__)

BETAS, EPSILON = (0.9, 0.999), 1e-7  # Of Adam, as Keras has them.

Values = list[tf.Tensor]
# Which branches there are, and attributes that follow the channels.
Form = tuple[tf.Tensor, Values]


class TracedNetwork:
    """Inference, collecting of statistics and a training step of one model, whatever was removed from it.

    Each is traced when it is first needed, by the dense model. Called like the model, it gives the model's joined
    outputs in inference. Variables of dropped branches keep the values that they have.

    Args:
        model: the dense model, with one input. It must not change but by surgery.
        groups: its channel groups. Only lengths that they or branches change are left open: Keras has a convolution
            compiled by XLA, for every plan anew, where it cannot see that the images have as many channels as the
            kernel.
        loss: of a training step, from targets and outputs to their mean loss; none for a network that is not tuned.
        branches: its branches; none for a network that only gets narrower.
    """

    def __init__(
        self,
        model: Any,
        groups: Sequence[ChannelGroup],
        loss: Callable[[Any, Any], Any] | None = None,
        branches: Sequence[Branch] = (),
    ) -> None:
        self._model = model
        self._norms = layers_to_recalibrate(model)
        self._loss = loss
        self._trained, self._others = model.trainable_variables, model.non_trainable_variables
        self._widths = OpenWidths(model, groups, branches)
        self._branches = OptionalBranches(model, branches)
        form = tf.TensorSpec(self._branches.flags().shape, "bool"), self._widths.specs()
        values = [
            [tf.TensorSpec(self._widths.shape(v), v.dtype) for v in variables]
            for variables in (self._trained, self._others)
        ]
        images = tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype)
        number, targets = tf.TensorSpec((), "float32"), tf.TensorSpec((None, None), "float32")
        plain = partial(tf.function, autograph=False, jit_compile=False)
        self._outputs = plain(self._trace_outputs, input_signature=(form, *values, images))
        self._collected = plain(self._trace_statistics, input_signature=(form, *values, images, number))
        of_step = (form, *values, [values[0], values[0]], images, targets, number, number, number)
        self._step = plain(self._trace_step, input_signature=of_step)

    def __call__(self, images: np.ndarray, training: bool = False) -> tf.Tensor:
        """Outputs for (n, *input shape) images, always in inference mode."""
        return self._outputs(self._form(), *self._values(), images)

    def collect(self, images: np.ndarray, momentum: float) -> None:
        """Let the batch norms see a batch; the other layers run as in inference."""
        self._write([], self._collected(self._form(), *self._values(), images, momentum))

    def tune(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], rates: Sequence[float]) -> None:
        """Steps of Adam: Kingma & Ba, 2015, arXiv 1412.6980, in the form at the end of section 2.

        Args:
            batches: images and targets of each step.
            rates: learning rate of each step.
        """
        trained, others = self._values()
        form = self._form()
        moments = [[tf.zeros_like(value) for value in trained] for _ in BETAS]
        for number, ((images, targets), rate) in enumerate(zip(batches, rates, strict=True), start=1):
            powers = [beta**number for beta in BETAS]
            trained, others, moments = self._step(form, trained, others, moments, images, targets, rate, *powers)
        self._write(trained, others)

    def complaint(self, images: np.ndarray, targets: np.ndarray | None = None) -> str:
        """Why the model as it is now cannot be run in this way; empty when it can.

        A layer may need lengths that are known beforehand, or hold something that depends on them. No variable changes.

        Args:
            images: (n, *input shape), a few.
            targets: of a training step, for a network that is tuned.
        """
        try:
            found = self(images)
            self._collected(self._form(), *self._values(), images, 0.5)
            if targets is not None:
                trained, others = self._values()
                self._step(self._form(), trained, others, [trained, trained], images, targets, 0.0, *BETAS)
        except Exception as error:  # whatever a layer or TensorFlow raises
            logger.debug("not run compiled", exc_info=True)
            # Without the places in code and the arguments that Keras and TensorFlow list.
            words = words_of(error, 100_000).split("Arguments received by")[0]
            lines = [line for line in words.splitlines() if not line.lstrip().startswith("File ")]
            return f"{type(error).__name__}: {' '.join(' '.join(lines).split())[:300]}"
        expected = run_joined(self._model, images)
        return "" if np.allclose(found, expected, rtol=1e-3, atol=1e-4) else "its outputs are other ones than eagerly"

    def _values(self) -> tuple[Values, Values]:
        values = keras_internals.values_of([*self._trained, *self._others])
        return values[: len(self._trained)], values[len(self._trained) :]

    def _form(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """What the model is now, besides the values of its variables."""
        return self._branches.flags(), self._widths.attributes()

    def _write(self, trained: Values, others: Values) -> None:
        keras_internals.assign_values([*self._trained[: len(trained)], *self._others], [*trained, *others])

    # ------------------------------------------------------------------ traced

    @contextmanager
    def _holding(self, form: Form, trained: Values, others: Values) -> Iterator[keras.StatelessScope]:
        pairs = [*zip(self._trained, trained, strict=True), *zip(self._others, others, strict=True)]
        flags, counts = form
        with self._branches.holding(flags), self._widths.holding(counts), keras_internals.stand_in(pairs) as scope:
            yield scope

    def _run(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Joined outputs whose shapes are known again."""
        found = keras.tree.flatten(keras_internals.run_on(self._model, images, training=training))
        known = [tf.ensure_shape(part, tensor.shape) for part, tensor in zip(found, self._model.outputs, strict=True)]
        return join(known)

    def _trace_outputs(self, form: Form, trained: Values, others: Values, images: tf.Tensor) -> tf.Tensor:
        with self._holding(form, trained, others):
            return self._run(images, training=False)

    def _trace_statistics(
        self, form: Form, trained: Values, others: Values, images: tf.Tensor, momentum: tf.Tensor
    ) -> Values:
        with collecting(self._norms, momentum), self._holding(form, trained, others) as scope:
            keras_internals.run_on(self._model, images, training=False)
            return [scope.get_current_value(variable) for variable in self._others]

    def _trace_step(
        self, form: Form, trained: Values, others: Values, moments: list[Values], images: tf.Tensor,
        targets: tf.Tensor, rate: tf.Tensor, *powers: tf.Tensor,
    ) -> tuple[Values, Values, list[Values]]:  # fmt: skip
        if self._loss is None:
            raise TypeError("A network without a loss is not tuned.")
        loss_of = self._loss
        with tf.GradientTape() as tape, safe_convolutions(self._model), self._holding(form, trained, others) as scope:
            tape.watch(trained)
            loss = loss_of(targets, self._run(images, training=True)) + sum(self._model.losses)
        # From where the step has left the kernel of a spectral normalisation.
        trained = [scope.get_current_value(variable) for variable in self._trained]
        gradients = tape.gradient(loss, trained, unconnected_gradients="zero")
        moved, moments = step_of_adam(trained, gradients, moments, rate, powers)
        bound = [v.constraint(value) if v.constraint else value for v, value in zip(self._trained, moved, strict=True)]
        return bound, [scope.get_current_value(variable) for variable in self._others], moments


@dataclass(frozen=True)
class _Attribute:
    """An attribute that follows the channels and is read when the operation runs.

    Attributes:
        operation: layer or operation that has it.
        name: name of the attribute.
        places: of the numbers in an attribute that is a tuple; (-1,) for a plain integer, and none for an attribute
            that holds a value for each channel.
        axes: of the latter, those along which the channels lie.
    """

    operation: Any
    name: str
    places: tuple[int, ...]
    axes: tuple[int, ...]

    def value(self) -> np.ndarray:
        """What pruning may have changed: an integer for each place, or the values themselves."""
        found = keras_internals.read_attribute(self.operation, self.name)
        if not self.places:
            return np.asarray(found, "float32")
        return np.asarray([found if place < 0 else found[place] for place in self.places], "int32")

    def written(self, tensor: tf.Tensor) -> Any:
        """The attribute with a tensor in place of `value`."""
        if not self.places:
            return tensor
        found = keras_internals.read_attribute(self.operation, self.name)
        if self.places == (-1,):
            return tensor[0]
        return tuple(
            tensor[self.places.index(place)] if place in self.places else old for place, old in enumerate(found)
        )


class OpenWidths:
    """What of a model depends on its widths, besides the values of its variables, and is left open within a trace.

    Keras shapes a bias, a scale or a reshaped tensor by numbers that it reads off the layer or its input. Where pruning
    leaves a length open, within the trace the length is left to the operation or taken from a tensor. What comes out is
    the same; `Passes` tries whether it is, for a layer of one's own need not say how it is traced.

    Args:
        model: whose layers must not change but in their widths.
        groups: its channel groups.
        branches: its branches: behind a concatenation channels go with them.
    """

    def __init__(self, model: Any, groups: Sequence[ChannelGroup], branches: Sequence[Branch] = ()) -> None:
        self._operations = keras_internals.operations_by_path(model)
        self._lengths: dict[int, list[int | None]] = {}
        bound: dict[tuple[str, str], list[Member]] = {}
        parts = [group for group in groups if group.prunable] + [branch for branch in branches if branch.removable]
        for member in (member for part in parts for member in part.members):
            operation = self._operations[member.layer]
            if not member.is_attribute:
                variable = keras_internals.layer_variable(operation, member.name)
                self._lengths.setdefault(id(variable), list(keras_internals.shape_of(variable)))[member.axis] = None
                continue
            # Others are for the config alone.
            kind = kind_of(operation)
            if kind is not None and member.name in kind.attributes_in_call:
                bound.setdefault((member.layer, member.name), []).append(member)
        self._attributes = [
            _Attribute(
                self._operations[path],
                name,
                tuple(sorted({member.axis for member in members if member.role == "counts"})),
                tuple(member.axis for member in members if member.role == "per_channel"),
            )
            for (path, name), members in bound.items()
        ]

    def shape(self, variable: Any) -> list[int | None]:
        """Of a variable, with None for the lengths that pruning changes."""
        return list(self._lengths.get(id(variable), keras_internals.shape_of(variable)))

    def attributes(self) -> list[np.ndarray]:
        """The present values of the attributes that a trace takes as arguments."""
        return [attribute.value() for attribute in self._attributes]

    def specs(self) -> list[tf.TensorSpec]:
        """Of `attributes`, with the lengths open that pruning changes."""
        return [
            tf.TensorSpec([None if axis in one.axes else size for axis, size in enumerate(value.shape)], value.dtype)
            for one, value in zip(self._attributes, self.attributes(), strict=True)
        ]

    @contextmanager
    def holding(self, tensors: Sequence[tf.Tensor]) -> Iterator[None]:
        """Within the block the model can be run by variables of open lengths, with these tensors for `attributes`."""
        with ExitStack() as stack:
            for attribute, tensor in zip(self._attributes, tensors, strict=True):
                operation, name = attribute.operation, attribute.name
                states = keras_internals.attribute_states([(operation, name)])
                stack.callback(keras_internals.restore_attributes, states)
                keras_internals.write_attributes([(operation, name, attribute.written(tensor))])
            for operation in self._operations.values():
                for name, value in open_widths(operation).items():
                    stack.enter_context(keras_internals.overridden(name, {operation: value}))
            yield


def step_of_adam(
    values: Values, gradients: Sequence[Any], moments: Sequence[Values], rate: tf.Tensor, powers: Sequence[tf.Tensor]
) -> tuple[Values, list[Values]]:
    """Values a step further, and the moments then.

    Args:
        values: values of the variables.
        gradients: gradients of the loss, one for each variable.
        moments: means of gradients and of their squares.
        rate: learning rate.
        powers: of `BETAS`, to the number of the step.
    """
    means, squares = (
        [beta * old + (1 - beta) * _power(gradient, power) for old, gradient in zip(moment, gradients, strict=True)]
        for power, beta, moment in zip((1, 2), BETAS, moments, strict=True)
    )
    size = rate * tf.sqrt(1 - powers[1]) / (1 - powers[0])
    moved = [
        value - size * mean / (tf.sqrt(square) + EPSILON)
        for value, mean, square in zip(values, means, squares, strict=True)
    ]
    return moved, [means, squares]


def _power(gradient: tf.Tensor | tf.IndexedSlices, exponent: int) -> tf.Tensor:
    """Of a table, whose gradient comes in a slice for each look-up, the sum of the slices' powers, as Keras has it."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient**exponent
    powers = tf.IndexedSlices(gradient.values**exponent, gradient.indices, gradient.dense_shape)
    return tf.convert_to_tensor(powers)
