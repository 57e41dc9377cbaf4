"""How good a classifier is, run eagerly by default: a compiled function would be traced anew for every plan."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.data import Dataset, LazyImages, Split
from autoprune.errors import DataError
from autoprune.models import keras_internals
from autoprune.models.distilling import predict_log_probabilities
from autoprune.models.head import gives_logits


def accuracy(model: Any, split: Split, batch_size: int = 256, run: Callable[..., Any] | None = None) -> float:
    """Share of the split that the model classifies correctly.

    Args:
        model: a classifier.
        split: images and labels.
        batch_size: images per forward pass.
        run: called in place of the model, which is run eagerly otherwise.
    """
    return float(np.mean(predict_classes(model, split, batch_size, run) == split.labels))


def predict_classes(
    model: Any, split: Split, batch_size: int = 256, run: Callable[..., Any] | None = None
) -> np.ndarray:
    """(n,) class numbers that the model predicts; a single number counts as class 1 from even odds up."""
    parts = []
    even, run = 0.0 if gives_logits(model) else 0.5, run or partial(keras_internals.run_on, model)
    for images in batches(split.images, batch_size):
        with keras_internals.without_gradients():
            outputs = keras.ops.convert_to_numpy(run(images, training=False))
        parts.append(outputs[:, 0] >= even if outputs.shape[1] == 1 else outputs.argmax(1))
    return np.concatenate(parts).astype(np.int64)


@dataclass(frozen=True)
class Signals:
    """What tells plans apart before they are fine-tuned: three figures from 0 to 1, the higher the better.

    They are NaN when an output of the model was not finite.

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
    """Run a model over a split, once.

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
    broken = len(split.labels) - int(np.concatenate(whole).sum())
    # An argmax is always some class, and of a row that is NaN in one place the right class may have a probability.
    if broken:
        return Signals(np.nan, np.nan, np.nan, broken)
    right = found[np.arange(len(split.labels)), split.labels]
    agreement = np.nan
    if dense is not None:
        agreement = np.exp(-np.mean(np.sum(np.exp(dense) * (dense - found), axis=1)))
    # Of two classes that are equally probable the second counts, as a threshold at even odds has it.
    predicted = found[:, 1] >= found[:, 0] if found.shape[1] == 2 else found.argmax(1)
    return Signals(float(np.mean(predicted == split.labels)), float(np.exp(right.mean())), float(agreement))


def batches(images: np.ndarray | LazyImages, batch_size: int, count: int | None = None) -> Iterator[np.ndarray]:
    """Consecutive parts of at most `batch_size` of the images, or of the first `count`; each is read when it is due."""
    end = len(images) if count is None else min(count, len(images))
    for start in range(0, end, batch_size):
        yield images[start : min(start + batch_size, end)]


def check_fit(model: Any, data: Dataset) -> None:
    """Refuse data that do not fit a model.

    Raises:
        DataError: naming both shapes, or the classes that the model has no output for.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise DataError(
            f"autoprune scores classifiers with one input and one output. '{model.name}' has {len(model.inputs)} "
            f"inputs and {len(model.outputs)} outputs."
        )
    expected, received = tuple(model.inputs[0].shape[1:]), data.input_shape
    fits = len(expected) == len(received) and all(e in (None, r) for e, r in zip(expected, received, strict=False))
    if not fits:
        raise DataError(
            f"The images of '{data.name}' have shape {received}, the model '{model.name}' takes {expected}. Resize "
            "or reshape the data (data.image_size=[height,width,channels] does it), or choose a model with that input."
        )
    outputs = tuple(model.outputs[0].shape[1:])
    if len(outputs) != 1:
        shape = ", ".join(map(str, ("n", *outputs)))
        raise DataError(
            f"A classifier's output has shape (n, classes). '{model.name}' gives ({shape}): it is not a classifier of "
            "whole images, and searches score these alone. From Python it is pruned like any other: "
            "autoprune.make_plan, autoprune.apply_plan, autoprune.measure_cost."
        )
    classes = max(outputs[0], 2)
    if data.classes > classes:
        raise DataError(
            f"The labels of '{data.name}' go up to {data.classes - 1}, but '{model.name}' tells {classes} classes "
            f"apart (0 to {classes - 1}). Number the classes from 0, leave out one-hot columns that no image needs, or "
            "choose a model with as many outputs."
        )
