"""How good a model is, run eagerly by default: a compiled function would be traced anew for every plan.

What is called accuracy here is the measure of the data's task: of a classifier the share of images that are named
right, of another model what its `Measure` says, with the sign turned where lower is better.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.data import Dataset, LazyImages, Split
from autoprune.errors import DataError, SettingsError, words_of
from autoprune.models import keras_internals
from autoprune.models.outputs import flatten, run_joined
from autoprune.tasks import Judge, Task
from autoprune.tasks.heads import Classes


def accuracy(model: Any, split: Split, batch_size: int = 256, run: Callable[..., Any] | None = None) -> float:
    """The quality of a model on a split: NaN where it cannot be told.

    Args:
        model: carries out the split's task.
        split: images and labels.
        batch_size: images per forward pass.
        run: gives joined outputs in place of the model, which is run eagerly otherwise.
    """
    task = split.task
    if task.classifies:
        return float(np.mean(predict_classes(model, split, batch_size, run) == split.labels))
    judge, run = Judge(task, model), run or partial(run_joined, model)
    metric = judge.make_metric()
    for images, labels in zip(batches(split.images, batch_size), batches(split.labels, batch_size), strict=True):
        with keras_internals.without_gradients():
            joined = run(images, training=False)
            try:
                judge.update_metric(metric, _as_tensor(labels), joined)
            except Exception as error:  # whatever a metric, or a backend below it, raises
                raise _misfit(task, labels, joined, error) from error
    try:
        return task.measure.sign * float(metric.result())
    except TypeError as error:
        raise _misfit(task, split.labels, joined, error) from error


def _misfit(task: Task, labels: np.ndarray, outputs: Any, error: Exception) -> SettingsError:
    """A metric that does not suit what it is to look at."""
    return SettingsError(
        f"The metric '{task.measure.name}' cannot be taken of labels of shape {labels.shape} and outputs of shape "
        f"{tuple(outputs.shape)} with task={task.name}: {words_of(error, 300)}. It must give one number; choose "
        "another (task.metric, or quality from Python)."
    )


def predict_classes(
    model: Any, split: Split, batch_size: int = 256, run: Callable[..., Any] | None = None
) -> np.ndarray:
    """(n,) class numbers that a classifier predicts; a single number counts as class 1 from even odds up."""
    judge, run, parts = Judge(split.task, model), run or partial(run_joined, model), []
    for images in batches(split.images, batch_size):
        with keras_internals.without_gradients():
            outputs = keras.ops.convert_to_numpy(run(images, training=False))
        parts.append(outputs[:, 0] >= judge.even_odds if outputs.shape[1] == 1 else outputs.argmax(1))
    return np.concatenate(parts).astype(np.int64)


@dataclass(frozen=True)
class Signals:
    """What tells plans apart before they are fine-tuned, the higher the better.

    They are NaN when an output of the model was not finite.

    Attributes:
        accuracy: the quality on these images, see `accuracy`.
        likelihood: from 0 to 1: the geometric mean of the probabilities of the right classes, exp(-cross-entropy); of
            numbers exp(-mean squared error / variance); of several outputs their geometric mean by weights.
        agreement: from 0 to 1: exp(-divergence) from what the dense model tells, averaged over the images, with the
            Kullback-Leibler divergence of probabilities and squares of differences of numbers; NaN when that was not
            given.
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
        model: carries out the split's task.
        split: images and labels.
        dense: (n, k) what the dense model tells of these images (`Judge.ask`), if it is known.
        batch_size: images per forward pass.
        run: gives joined outputs in place of the model, which is run eagerly otherwise.
    """
    judge, run = Judge(split.task, model), run or partial(run_joined, model)
    weights = np.array([head.weight for head in judge.heads]) / sum(head.weight for head in judge.heads)
    metric = None if split.task.classifies else judge.make_metric()
    surprises, divergences, right = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    broken = start = 0
    for images, labels in zip(batches(split.images, batch_size), batches(split.labels, batch_size), strict=True):
        with keras_internals.without_gradients():
            joined = run(images, training=False)
            finite = keras.ops.convert_to_numpy(keras.ops.all(keras.ops.isfinite(flatten(joined)), axis=1))
            told = [keras.ops.convert_to_numpy(part).astype(np.float64) for part in judge.tell(joined)]
            if metric is not None:
                judge.update_metric(metric, _as_tensor(labels), joined)
        broken += int((~finite).sum())
        parts = list(zip(judge.heads, judge.labels(labels), told, strict=True))
        surprises.append(weights @ [head.surprise(truth, said) for head, truth, said in parts])
        if metric is None:
            right.extend(head.right(truth, said) for head, truth, said in parts if isinstance(head, Classes))
        if dense is not None:
            known = judge.apart(dense[start : start + len(labels)])
            gaps = [head.divergence(was, said) for (head, _, said), was in zip(parts, known, strict=True)]
            divergences.append(weights @ gaps)
        start += len(labels)
    # An argmax is always some class, and of a row that is NaN in one place the right class may have a probability.
    if broken:
        return Signals(np.nan, np.nan, np.nan, broken)
    quality = float(np.mean(np.concatenate(right))) if metric is None else float(metric.result())
    return Signals(
        split.task.measure.sign * quality,
        float(np.exp(-np.concatenate(surprises).mean())),
        float(np.exp(-np.concatenate(divergences).mean())) if divergences else np.nan,
    )


def _as_tensor(labels: np.ndarray) -> Any:
    """Labels as metrics take them: JAX has no whole numbers of 64 bits."""
    return keras.ops.convert_to_tensor(labels.astype(np.int32) if labels.dtype.kind == "i" else labels)


def batches(images: np.ndarray | LazyImages, batch_size: int, count: int | None = None) -> Iterator[np.ndarray]:
    """Consecutive parts of at most `batch_size` of the images, or of the first `count`; each is read when it is due."""
    end = len(images) if count is None else min(count, len(images))
    for start in range(0, end, batch_size):
        yield images[start : min(start + batch_size, end)]


def check_fit(model: Any, data: Dataset) -> None:
    """Refuse data that do not fit a model.

    Raises:
        DataError: naming both shapes, the classes that the model has no output for, or the output without a loss.
    """
    task = data.task
    if len(model.inputs) != 1:
        raise DataError(
            f"autoprune scores models with one input. '{model.name}' has {len(model.inputs)} inputs. From Python it is "
            "pruned like any other: autoprune.make_plan, autoprune.apply_plan, autoprune.measure_cost."
        )
    expected, received = tuple(model.inputs[0].shape[1:]), data.input_shape
    fits = len(expected) == len(received) and all(e in (None, r) for e, r in zip(expected, received, strict=False))
    if not fits:
        raise DataError(
            f"The images of '{data.name}' have shape {received}, the model '{model.name}' takes {expected}. Resize "
            "or reshape the data (data.image_size=[height,width,channels] does it), or choose a model with that input."
        )
    judge = Judge(task, model)
    every = [judge.labels(split.labels) for split in (data.train, data.reward, data.test)]
    for head, tensor, *some in zip(judge.heads, model.outputs, *every, strict=True):
        outputs = tuple(tensor.shape[1:])
        own = f"'{model.name}'" if len(task.heads) == 1 else f"Output '{head.name}' of '{model.name}'"
        shape = ", ".join(map(str, ("n", *outputs)))
        if task.names_classes and len(outputs) != 1:
            raise DataError(
                f"A classifier's output has shape (n, classes). {own} gives ({shape}): it is not a classifier of whole "
                "images. Say what it is for: task=segmentation for a class of each pixel, task=regression for numbers."
            )
        if complaint := head.complain(outputs):
            raise DataError(f"With task={head.kind}, labels of '{data.name}' need {complaint}. {own} gives ({shape}).")
        if len(task.heads) > 1 and None in outputs:
            raise DataError(
                f"{own} gives ({shape}): a model of several outputs needs fixed sizes. Give its input a fixed size."
            )
        classes = data.classes if len(task.heads) == 1 else max(map(head.count_classes, some))
        apart = max(outputs[-1] or 0, 2) if outputs else 0
        if isinstance(head, Classes) and classes > apart:
            raise DataError(
                f"The labels of '{data.name}' go up to {classes - 1}, but {own} tells {apart} classes apart (0 to "
                f"{apart - 1}). Number the classes from 0, leave out one-hot columns that no image needs, or choose a "
                "model with as many outputs."
            )


def check_quality(quality: float, data: Dataset) -> None:
    """Refuse a dense model whose quality is no number, before anything is searched.

    Raises:
        DataError: naming the metric.
    """
    if not np.isfinite(quality):
        raise DataError(
            f"The {data.task.measure.name} of the dense model on the reward split is {quality}: no plan can be "
            "compared with it. Check the weights and the labels, or choose another metric (task.metric)."
        )
