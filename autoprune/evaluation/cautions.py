"""What can be said against a result before it is there: by the data, and by what the dense model makes of them."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from autoprune.data import Dataset, Split
from autoprune.errors import DataError
from autoprune.tasks import CLASSIFICATION

FEW = 100
# Images of a split from which its scale is read.
_SAMPLE = 64
# Spread of one split's values over the other's that no chance explains, and that nothing but another unit does.
_OTHER_SPREAD, _OTHER_SCALE = 1.5, 10.0
# Standard errors of a share: of 95 %, and where a false alarm would be one of many.
_SURELY, _VERY_SURELY = 1.96, 3.0


def data_cautions(model: Any, data: Dataset) -> list[str]:
    """What a reader of any result with these data should know; usually nothing.

    Args:
        model: one that the data fit, see `check_fit`.
        data: its data.

    Raises:
        DataError: with these data no result says anything: test images on another scale, or one class alone.
    """
    few = []
    for name, count in (("reward", len(data.reward)), ("test", len(data.test))):
        if count < FEW:
            advice = " Plans cannot be told apart by less: give more images, or a larger data.reward_size."
            advice = advice if name == "reward" else ""
            worth = f": one is {100 / count:.1f} points" if data.task.classifies else ""
            few.append(f"There are only {count} {name} images{worth}.{advice}")
    return [*few, *(_labels(model, data) if data.task.names_classes else ()), *_scale(data)]


def chance_caution(accuracy: float, split: Split, classes: int) -> list[str]:
    """Whether a classifier is no better than the most frequent class, beyond the split's own error; usually nothing.

    Args:
        accuracy: of the dense model on the split.
        split: that it was taken on; classes count as equally frequent where labels are not there.
        classes: number of classes.
    """
    if not getattr(split, "task", CLASSIFICATION).classifies:
        return []
    labels = getattr(split, "labels", None)
    share = 1 / classes if labels is None else np.bincount(labels).max() / len(labels)
    error = _SURELY * math.sqrt(share * (1 - share) / len(split))
    if accuracy > share + error:
        return []
    return [
        f"The dense model is right on {accuracy:.1%} of the reward split. To name its most frequent class always is "
        f"right on {share:.1%} (± {100 * error:.1f} points for {len(split)} images): there is nothing to preserve. "
        "Train it first, or check labels and the scale of the images."
    ]


def gap_caution(what: str, reward: float, test: float, data: Dataset) -> list[str]:
    """Whether a classifier's accuracies on reward and test split are further apart than the sizes of these explain.

    Args:
        what: whose accuracies, to begin a sentence with.
        reward: accuracy on the reward split.
        test: accuracy on the test split.
        data: with both splits.
    """
    if not data.task.classifies:
        return []
    sizes = len(data.reward), len(data.test)
    together = (reward * sizes[0] + test * sizes[1]) / sum(sizes)
    error = _VERY_SURELY * math.sqrt(together * (1 - together) * (1 / sizes[0] + 1 / sizes[1]))
    if abs(test - reward) <= error:
        return []
    why = (
        "It may have been trained on images of the reward split, whose scores flatter then, or"
        if reward > test
        else "It may have been trained on test images, or"
    )
    return [
        f"{what} is right on {reward:.1%} of the reward split and on {test:.1%} of the test split, further apart than "
        f"their sizes explain (± {100 * error:.1f} points). {why} the two are of different sources."
    ]


def _labels(model: Any, data: Dataset) -> Iterator[str]:
    """Classes without images, and outputs without classes.

    Raises:
        DataError: there is one class alone.
    """
    counts = {
        name: np.bincount(split.labels, minlength=data.classes)
        for name, split in (("training", data.train), ("reward", data.reward), ("test", data.test))
    }
    if np.count_nonzero(counts["training"]) == 1:
        raise DataError(
            f"All {len(data.train)} training images of '{data.name}' are of class {counts['training'].argmax()}: a "
            "classifier needs two classes or more. Check the labels, or give images of the others."
        )
    outputs = max(model.outputs[0].shape[-1], 2)
    if data.classes < outputs:
        yield (
            f"'{model.name}' tells {outputs} classes apart, and '{data.name}' has {data.classes}: check that its "
            "labels are numbered as the model's outputs are."
        )
    for name, count in counts.items():
        expected = np.arange(data.classes) if data.chosen is None else np.array(data.chosen)
        lacking = expected[count[expected] == 0]
        # By chance a small split lacks rare classes.
        if len(lacking) and (name == "training" or count.sum() >= 10 * len(expected)):
            first = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
            begin = " Do the labels begin at 1?" if name == "training" and lacking.tolist() == [0] else ""
            yield f"There is no {name} image of {len(lacking)} of {len(expected)} classes (number {first}).{begin}"


def _scale(data: Dataset) -> Iterator[str]:
    """A test split whose values are of another range.

    Raises:
        DataError: they are in another unit.
    """
    samples = []
    for split in (data.train, data.test):
        # Some images from all over it.
        chosen = np.unique(np.linspace(0, len(split) - 1, min(_SAMPLE, len(split))).astype(int))
        samples.append(np.asarray(split.part(chosen).images[:], np.float64))
    train, test = samples
    spreads = float(train.std()), float(test.std())
    if not min(spreads) > 0:
        return
    ratio, shift = max(spreads) / min(spreads), abs(float(train.mean() - test.mean()))
    if ratio <= _OTHER_SPREAD and shift <= max(spreads):
        return
    figures = (
        f"Values of training images of '{data.name}' go from {train.min():.4g} to {train.max():.4g} (mean "
        f"{train.mean():.3g}), those of test images from {test.min():.4g} to {test.max():.4g} (mean {test.mean():.3g})"
    )
    if ratio > _OTHER_SCALE:
        raise DataError(
            f"{figures}: they are on different scales, and a test would say nothing. Bring both to one scale."
        )
    yield f"{figures}: are both on the scale that the model was trained with?"
