"""Estimates batch-norm statistics anew after channels were removed.

The moving averages of a pruned model describe the dense one's activations: without new ones its one-shot accuracy
says nothing. Weights are not touched.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.data import LazyImages
from autoprune.evaluation.accuracy import batches
from autoprune.models import keras_internals


def recalibrate(
    model: Any,
    images: np.ndarray | LazyImages,
    batch_size: int = 256,
    collect: Callable[[np.ndarray, float], None] | None = None,
) -> int:
    """Set the moving mean and variance of every batch norm to the average over batches of these images.

    Every layer but the batch norms runs as in inference. Equal weights: batch k enters with weight 1/k, so that
    after n batches each counted 1/n. A shorter last batch is left out unless it is the only one.

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
    collect = collect or partial(_collect, model, norms)
    usable = len(images) // batch_size * batch_size or len(images)
    for number, batch in enumerate(batches(images, batch_size, usable)):
        collect(batch, number / (number + 1))
    return len(norms)


def layers_to_recalibrate(model: Any) -> list[Any]:
    """The batch norms that learn: a frozen one keeps its statistics."""
    return [layer for layer in keras_internals.layers_by_path(model).values() if _is_batch_norm(layer)]


def _collect(model: Any, norms: Sequence[Any], images: np.ndarray, momentum: float) -> None:
    with collecting(norms, momentum), keras_internals.without_gradients():
        keras_internals.run_on(model, images)


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


def _is_batch_norm(layer: Any) -> bool:
    """A frozen batch norm (`trainable=False`) keeps its statistics, as in training."""
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
