"""Estimates batch-norm statistics anew after channels were removed.

The moving averages of a pruned model describe the dense one's activations: without new ones its one-shot accuracy
says nothing. Weights are not touched.
"""

from typing import Any

import keras
import numpy as np

from autoprune.data import LazyImages
from autoprune.evaluation.accuracy import batches
from autoprune.models import keras_internals


def recalibrate(model: Any, images: np.ndarray | LazyImages, batch_size: int = 256) -> int:
    """Set the moving mean and variance of every batch norm to the average over batches of these images.

    Every layer but the batch norms runs as in inference. Equal weights: batch k enters with weight 1/k, so that
    after n batches each counted 1/n. A shorter last batch is left out unless it is the only one.

    Args:
        model: the model; its batch norms change.
        images: (n, *input shape), from the training split; those that are read as needed are read batch by batch.
        batch_size: images per batch.

    Returns:
        The number of batch norms recalibrated.
    """
    norms = [layer for layer in keras_internals.layers_by_path(model).values() if _is_batch_norm(layer)]
    if not norms:
        return 0
    usable = len(images) // batch_size * batch_size or len(images)
    momenta = [(layer, layer.momentum) for layer in norms]
    try:
        with keras_internals.batch_statistics_only(norms):
            for number, batch in enumerate(batches(images, batch_size, usable)):
                for layer in norms:
                    layer.momentum = number / (number + 1)
                model(batch, training=False)
    finally:
        for layer, momentum in momenta:
            layer.momentum = momentum
    return len(norms)


def _is_batch_norm(layer: Any) -> bool:
    """A frozen batch norm (`trainable=False`) keeps its statistics, as in training."""
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
