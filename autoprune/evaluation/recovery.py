"""What is done to a pruned model before it is scored, so that the score tells what fine-tuning would make of it.

Batch norms get new statistics: moving averages describe the dense model's activations, and without new ones one-shot
accuracy says nothing. A few steps of tuning may come before.

One-shot accuracy says little even so: which plan is best after fine-tuning is decided by what its layers can learn.
`tests/benchmarks/fidelity.py` compares the ways.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from autoprune.data import LazyImages, Split
from autoprune.evaluation.accuracy import batches
from autoprune.models import keras_internals
from autoprune.models.outputs import join
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.tasks import Judge, add_teacher
from autoprune.tasks.judge import TaskLoss


class ShortTuning:
    """A few optimiser steps with distillation from the dense model.

    Every plan gets the same images in the same order, so that scores differ by the plan alone. The images are those
    that it is made with: the teacher looks at them once.

    Args:
        some: images and labels from the training split.
        teacher: (n, k) what the dense model tells of them, see `Judge.ask`.
        steps: of Adam, each on one batch; the images are gone through again when there are fewer.
        batch_size: images per step.
        learning_rate: of the first step; it falls to zero along a cosine.
        weight: of the teacher beside the labels, see `TaskLoss`.
        temperature: what the teacher's logits are divided by.
    """

    def __init__(
        self,
        some: Split,
        teacher: np.ndarray,
        *,
        steps: int,
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        weight: float = 0.5,
        temperature: float = 2.0,
    ) -> None:
        self._images = some.images
        self._task = some.task
        self._targets = add_teacher(some.labels, teacher)
        self._steps = steps
        self._batch_size = min(batch_size, len(some))
        self._learning_rate = learning_rate
        self._weight = weight
        self._temperature = temperature

    def __call__(self, model: Any, tune: Callable[..., None] | None = None) -> None:
        """Tune in place. Only variables change: the model keeps its own compile state and optimiser.

        Args:
            model: is tuned.
            tune: takes the steps in another way, see `TracedNetwork.tune`; by default they are run eagerly.
        """
        schedule = keras.optimizers.schedules.CosineDecay(self._learning_rate, self._steps)
        if tune is not None:
            tune(self._batches(), [float(schedule(step)) for step in range(self._steps)])
            return
        probe = keras.Model(keras_internals.input_structure(model), join(model.outputs), name="short_tuning")
        # Eagerly: a compiled step would be traced anew for every plan, which takes longer than the steps.
        probe.compile(keras.optimizers.Adam(schedule), self.loss_for(model), run_eagerly=True, jit_compile=False)
        with safe_convolutions(model):
            for images, targets in self._batches():
                probe.train_on_batch(images, targets)

    def loss_for(self, model: Any) -> keras.losses.Loss:
        """What a step of tuning makes smaller, of joined outputs."""
        return TaskLoss(Judge(self._task, model), teacher=self._weight, temperature=self._temperature)

    def first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first few images and their targets."""
        return self._images[:count], self._targets[:count]

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        batches = len(self._images) // self._batch_size
        for step in range(self._steps):
            start = step % batches * self._batch_size
            part = slice(start, start + self._batch_size)
            yield self._images[part], self._targets[part]


def recalibrate(
    model: Any,
    images: np.ndarray | LazyImages,
    batch_size: int = 256,
    collect: Callable[[np.ndarray, float], None] | None = None,
) -> int:
    """Set the moving mean and variance of every batch norm to the average over batches of these images.

    Weights are not touched, and every layer but the batch norms runs as in inference. Batch k enters with weight 1/k,
    so that after n batches each counted 1/n. A shorter last batch is left out unless it is the only one.

    Args:
        model: the model; its batch norms change.
        images: (n, *input shape), from the training split; those that are read as needed are read batch by batch.
        batch_size: images per batch.
        collect: shows the batch norms a batch, at a momentum; by default the model is run eagerly.

    Returns:
        The number of batch norms recalibrated.
    """
    norms = layers_to_recalibrate(model)
    if not norms:
        return 0
    usable = len(images) // batch_size * batch_size or len(images)
    for number, batch in enumerate(batches(images, batch_size, usable)):
        momentum = number / (number + 1)
        if collect is not None:
            collect(batch, momentum)
            continue
        with collecting(norms, momentum), keras_internals.without_gradients():
            keras_internals.run_on(model, batch)
    return len(norms)


def layers_to_recalibrate(model: Any) -> list[Any]:
    """The batch norms that learn: a frozen one (`trainable=False`) keeps its statistics, as in training."""
    layers = keras_internals.layers_by_path(model).values()
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable]


@contextmanager
def collecting(norms: Sequence[Any], momentum: Any) -> Iterator[None]:
    """Within the block batch norms collect the statistics of each batch, at this momentum."""
    before = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = momentum
        with keras_internals.batch_statistics_only(norms):
            yield
    finally:
        for norm, value in zip(norms, before, strict=True):
            norm.momentum = value
