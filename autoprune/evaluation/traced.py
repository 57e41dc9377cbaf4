"""A network's passes, compiled once for all widths that it may be pruned to.

A function that is traced for the shapes of one plan is of no use to the next, and tracing takes longer than ten steps
of tuning. Here the variables are arguments of the function and their lengths are left open, so that one trace serves
every plan; what runs is as small as the pruned network. `tests/benchmarks/traced.py` compares with running eagerly.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autoprune.errors import words_of
from autoprune.evaluation.open_widths import OpenWidths
from autoprune.evaluation.recalibration import collecting, layers_to_recalibrate
from autoprune.models import keras_internals
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.records import ChannelGroup

logger = logging.getLogger(__name__)

BETAS, EPSILON = (0.9, 0.999), 1e-7  # Of Adam, as Keras has them.

Values = list[tf.Tensor]


class TracedNetwork:
    """Inference, collecting of statistics and a training step of one model, whatever channels were removed from it.

    Each is traced when it is first needed. Called like the model, it gives what the model gives in inference.

    Args:
        model: with one input and one output. Its layers must not change but in their widths.
        groups: its channel groups. Only lengths that they change are left open: Keras has a convolution compiled by
            XLA, for every plan anew, where it cannot see that the images have as many channels as the kernel.
        loss: of a training step, from targets and outputs to their mean loss; none for a network that is not tuned.
    """

    def __init__(
        self, model: Any, groups: Sequence[ChannelGroup], loss: Callable[[Any, Any], Any] | None = None
    ) -> None:
        self._model = model
        self._norms = layers_to_recalibrate(model)
        self._loss = loss
        self._trained, self._others = model.trainable_variables, model.non_trainable_variables
        self._widths = OpenWidths(model, groups)
        counts = self._widths.specs()
        values = [
            [tf.TensorSpec(self._widths.shape(v), v.dtype) for v in variables]
            for variables in (self._trained, self._others)
        ]
        images = tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype)
        number, targets = tf.TensorSpec((), "float32"), tf.TensorSpec((None, None), "float32")
        self._outputs = _function(self._trace_outputs, counts, *values, images)
        self._collected = _function(self._trace_statistics, counts, *values, images, number)
        self._step = _function(
            self._trace_step, counts, *values, [values[0], values[0]], images, targets, number, number, number
        )

    def __call__(self, images: np.ndarray, training: bool = False) -> tf.Tensor:
        """Outputs for (n, *input shape) images, always in inference mode."""
        return self._outputs(self._widths.attributes(), *self._values(), images)

    def collect(self, images: np.ndarray, momentum: float) -> None:
        """Let the batch norms see a batch; the other layers run as in inference."""
        self._write([], self._collected(self._widths.attributes(), *self._values(), images, momentum))

    def tune(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], rates: Sequence[float]) -> None:
        """Steps of Adam: Kingma & Ba, 2015, arXiv 1412.6980, in the form at the end of section 2.

        Args:
            batches: images and targets of each step.
            rates: learning rate of each step.
        """
        trained, others = self._values()
        counts = self._widths.attributes()
        moments = [[tf.zeros_like(value) for value in trained] for _ in BETAS]
        for number, ((images, targets), rate) in enumerate(zip(batches, rates, strict=True), start=1):
            powers = [beta**number for beta in BETAS]
            trained, others, moments = self._step(counts, trained, others, moments, images, targets, rate, *powers)
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
            self._collected(self._widths.attributes(), *self._values(), images, 0.5)
            if targets is not None:
                trained, others = self._values()
                self._step(self._widths.attributes(), trained, others, [trained, trained], images, targets, 0.0, *BETAS)
        except Exception as error:  # whatever a layer or TensorFlow raises
            logger.debug("not run compiled", exc_info=True)
            return f"{type(error).__name__}: {_in_short(error)}"
        expected = keras_internals.run_on(self._model, images, training=False)
        return "" if np.allclose(found, expected, rtol=1e-3, atol=1e-4) else "its outputs are other ones than eagerly"

    def _values(self) -> tuple[Values, Values]:
        values = keras_internals.values_of([*self._trained, *self._others])
        return values[: len(self._trained)], values[len(self._trained) :]

    def _write(self, trained: Values, others: Values) -> None:
        keras_internals.assign_values([*self._trained[: len(trained)], *self._others], [*trained, *others])

    # ------------------------------------------------------------------ traced

    @contextmanager
    def _holding(self, counts: Values, trained: Values, others: Values) -> Iterator[keras.StatelessScope]:
        pairs = [*zip(self._trained, trained, strict=True), *zip(self._others, others, strict=True)]
        with self._widths.holding(counts), keras_internals.stand_in(pairs) as scope:
            yield scope

    def _run(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Outputs whose number of classes is known again."""
        return tf.ensure_shape(
            keras_internals.run_on(self._model, images, training=training), self._model.outputs[0].shape
        )

    def _read_others(self, scope: keras.StatelessScope) -> Values:
        return [scope.get_current_value(variable) for variable in self._others]

    def _trace_outputs(self, counts: Values, trained: Values, others: Values, images: tf.Tensor) -> tf.Tensor:
        with self._holding(counts, trained, others):
            return self._run(images, training=False)

    def _trace_statistics(
        self, counts: Values, trained: Values, others: Values, images: tf.Tensor, momentum: tf.Tensor
    ) -> Values:
        with collecting(self._norms, momentum), self._holding(counts, trained, others) as scope:
            keras_internals.run_on(self._model, images, training=False)
            return self._read_others(scope)

    def _trace_step(
        self, counts: Values, trained: Values, others: Values, moments: list[Values], images: tf.Tensor,
        targets: tf.Tensor, rate: tf.Tensor, *powers: tf.Tensor,
    ) -> tuple[Values, Values, list[Values]]:  # fmt: skip
        with tf.GradientTape() as tape, safe_convolutions(self._model), self._holding(counts, trained, others) as scope:
            tape.watch(trained)
            loss = self._loss(targets, self._run(images, training=True)) + sum(self._model.losses)
        # From where the step has left the kernel of a spectral normalisation.
        trained = [scope.get_current_value(variable) for variable in self._trained]
        gradients = tape.gradient(loss, trained, unconnected_gradients="zero")
        means, squares = (
            [beta * old + (1 - beta) * _power(gradient, power) for old, gradient in zip(moment, gradients, strict=True)]
            for power, beta, moment in zip((1, 2), BETAS, moments, strict=True)
        )
        size = rate * tf.sqrt(1 - powers[1]) / (1 - powers[0])
        moved = [
            value - size * mean / (tf.sqrt(square) + EPSILON)
            for value, mean, square in zip(trained, means, squares, strict=True)
        ]
        bound = [v.constraint(value) if v.constraint else value for v, value in zip(self._trained, moved, strict=True)]
        return bound, self._read_others(scope), [means, squares]


def _power(gradient: tf.Tensor | tf.IndexedSlices, exponent: int) -> tf.Tensor:
    """Of a table, whose gradient comes in a slice for each look-up, the sum of the slices' powers, as Keras has it."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient**exponent
    powers = tf.IndexedSlices(gradient.values**exponent, gradient.indices, gradient.dense_shape)
    return tf.convert_to_tensor(powers)


def _in_short(error: Exception) -> str:
    """What an error says, without the places in code and the arguments that Keras and TensorFlow list."""
    words = words_of(error, 100_000).split("Arguments received by")[0]
    lines = [line for line in words.splitlines() if not line.lstrip().startswith("File ")]
    return " ".join(" ".join(lines).split())[:300]


def _function(body: Callable[..., Any], *signature: Any) -> Callable[..., Any]:
    return tf.function(body, input_signature=signature, autograph=False, jit_compile=False)
