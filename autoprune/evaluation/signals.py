"""What tells plans apart before they are fine-tuned, from one pass over the reward split."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.data import Split
from autoprune.models import keras_internals
from autoprune.models.distilling import predict_log_probabilities


@dataclass(frozen=True)
class Signals:
    """Three figures from 0 to 1, the higher the better; NaN when an output of the model was not finite.

    Attributes:
        accuracy: share of the images that are classified correctly.
        likelihood: geometric mean of the probabilities of the right classes, exp(-cross-entropy).
        agreement: exp(-divergence), with the Kullback-Leibler divergence of the model's probabilities from the dense
            model's, averaged over the images; NaN when those were not given.
        broken: images for which an output was not finite.
    """

    accuracy: float
    likelihood: float
    agreement: float
    broken: int = 0


def read_signals(
    model: Any,
    split: Split,
    dense: np.ndarray | None,
    batch_size: int = 256,
    run: Callable[..., Any] | None = None,
) -> Signals:
    """Run a model over a split.

    Args:
        model: a classifier.
        split: images and labels.
        dense: (n, classes) logarithms of the dense model's probabilities for these images, if they are known.
        batch_size: images per forward pass.
        run: called in place of the model, which is run eagerly otherwise.
    """
    run, whole = run or partial(keras_internals.run_on, model), []

    def watched(images: np.ndarray, training: bool) -> Any:
        outputs = run(images, training=training)
        whole.append(keras.ops.convert_to_numpy(keras.ops.all(keras.ops.isfinite(outputs), axis=1)))
        return outputs

    found = predict_log_probabilities(model, split.images, batch_size, watched).astype(np.float64)
    broken = len(split) - int(np.concatenate(whole).sum())
    # An argmax is always some class, and of a row that is NaN in one place the right class may have a probability.
    if broken:
        return Signals(np.nan, np.nan, np.nan, broken)
    right = found[np.arange(len(split)), split.labels]
    agreement = np.nan
    if dense is not None:
        agreement = np.exp(-np.mean(np.sum(np.exp(dense) * (dense - found), axis=1)))
    # Of two classes that are equally probable the second counts, as a threshold at even odds has it.
    predicted = found[:, 1] >= found[:, 0] if found.shape[1] == 2 else found.argmax(1)
    return Signals(float(np.mean(predicted == split.labels)), float(np.exp(right.mean())), float(agreement))
