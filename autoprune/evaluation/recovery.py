"""What is done to a pruned model before it is scored, so that the score tells what fine-tuning would make of it.

One-shot accuracy says little of that: which plan is best after fine-tuning is decided by what its layers can learn.
`tests/benchmarks/fidelity.py` compares the ways.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from autoprune.data import LazyImages
from autoprune.models import keras_internals
from autoprune.models.distilling import DistillationLoss, taught
from autoprune.models.head import gives_logits
from autoprune.models.safe_convolutions import safe_convolutions


class ShortTuning:
    """A few optimiser steps with distillation from the dense model.

    Every plan gets the same images in the same order, so that scores differ by the plan alone. The images are those
    that it is made with: the teacher looks at them once.

    Args:
        images: (n, *input shape) from the training split.
        labels: (n,) class numbers.
        teacher: (n, classes) logarithms of the dense model's probabilities for them.
        steps: of Adam, each on one batch; the images are gone through again when there are fewer.
        batch_size: images per step.
        learning_rate: of the first step; it falls to zero along a cosine.
        weight: of the teacher beside the labels, see `DistillationLoss`.
        temperature: what the teacher's logits are divided by.
    """

    def __init__(
        self,
        images: np.ndarray | LazyImages,
        labels: np.ndarray,
        teacher: np.ndarray,
        *,
        steps: int,
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        weight: float = 0.5,
        temperature: float = 2.0,
    ) -> None:
        self._images = images
        self._targets = taught(labels, teacher)
        self._steps = steps
        self._batch_size = min(batch_size, len(images))
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
        probe = keras.Model(keras_internals.input_structure(model), model.outputs[0], name="short_tuning")
        # Eagerly: a compiled step would be traced anew for every plan, which takes longer than the steps.
        probe.compile(keras.optimizers.Adam(schedule), self.loss_for(model), run_eagerly=True, jit_compile=False)
        with safe_convolutions(model):
            for images, targets in self._batches():
                probe.train_on_batch(images, targets)

    def loss_for(self, model: Any) -> DistillationLoss:
        """What a step of tuning makes smaller."""
        return DistillationLoss(self._weight, self._temperature, from_logits=gives_logits(model))

    def first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first few images and their targets."""
        return self._images[:count], self._targets[:count]

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        batches = len(self._images) // self._batch_size
        for step in range(self._steps):
            start = step % batches * self._batch_size
            part = slice(start, start + self._batch_size)
            yield self._images[part], self._targets[part]
