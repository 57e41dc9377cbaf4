"""Data sets of arrays and of batches that are in memory."""

from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from autoprune.data.splits import Dataset, Labelled, RawData, split
from autoprune.errors import DataError
from autoprune.settings import DataSettings, TaskSettings
from autoprune.tasks import make_task


def from_arrays(
    x_train: np.ndarray,
    y_train: Any,
    x_test: np.ndarray,
    y_test: Any,
    *,
    task: str | TaskSettings | Mapping[str, str] = "classification",
    reward_size: float = 0.2,
    seed: int = 0,
    classes: Collection[int] | None = None,
) -> Dataset:
    """A data set of arrays in memory.

    Args:
        x_train: (n, *input shape) images as the model takes them.
        y_train: by the task: (n,) class numbers from 0 or booleans, or (n, classes) one-hot; for `segmentation` masks
            (n, height, width) of class numbers; for `multi_label` (n, labels) zeros and ones; for `regression` (n, ...)
            numbers; for `density` anything as long; for several outputs a mapping with the labels of each by the
            output's name.
        x_test: likewise, for the final report alone.
        y_test: labels of the test images.
        task: what the model is to make of them: a name, settings, or for several outputs a mapping from each output's
            name to its task.
        reward_size: size of the reward split; a number below 1 is a share of the training images.
        seed: seed that the reward split is drawn with.
        classes: class numbers that the network is for: images of others leave all splits. None is all.

    Raises:
        DataError: labels or images cannot be used, or are too few; or a class is none of theirs.
        SettingsError: there is no such task.

    Example:
        >>> images, masks = np.zeros((10, 8, 8, 1)), np.zeros((10, 8, 8), int)
        >>> data = from_arrays(images, masks, images, masks, task="segmentation")
        >>> data.train, data.task.measure.name
        (Split(8 images of shape (8, 8, 1)), 'mean IoU')
    """
    if isinstance(task, Mapping):
        task = TaskSettings("outputs", outputs=dict(task))
    purpose = make_task(TaskSettings(task) if isinstance(task, str) else task)
    raw = RawData(Labelled(as_images(x_train), y_train), Labelled(as_images(x_test), y_test))
    chosen = None if classes is None else [int(number) for number in classes]
    return split(DataSettings("arrays", reward_size=reward_size, seed=seed, classes=chosen), raw, task=purpose)


def from_batches(
    train: Any,
    test: Any,
    *,
    task: str | TaskSettings | Mapping[str, str] = "classification",
    reward_size: float = 0.2,
    seed: int = 0,
    classes: Collection[int] | None = None,
) -> Dataset:
    """A data set of batches of images and labels, which are read once and kept in memory.

    Args:
        train: a `tf.data.Dataset`, a `keras.utils.PyDataset`, or anything else that gives `(images, labels)`, batch
            after batch; labels of several outputs as a mapping.
        test: likewise, for the final report alone.
        task: what the model is to make of the images, see `from_arrays`.
        reward_size: size of the reward split, a number of images or below 1 a share of the training images.
        seed: seed that the reward split is drawn with.
        classes: class numbers that the network is for, see `from_arrays`.

    Raises:
        DataError: a batch is something else, or there is none; or as for `from_arrays`.
    """
    parts = *_gather(train, "training"), *_gather(test, "test")
    return from_arrays(*parts, task=task, reward_size=reward_size, seed=seed, classes=classes)


def _gather(batches: Any, name: str) -> tuple[np.ndarray, Any]:
    """All images, and all labels in their structure."""
    # A PyDataset counts its batches and, asked for one more, begins anew.
    found = (batches[number] for number in range(len(batches))) if hasattr(batches, "__getitem__") else batches
    images, labels = [], []
    for batch in found:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            got = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise DataError(f"A {name} batch is a pair of images and labels. Received: {got}")
        images.append(np.asarray(batch[0]))
        labels.append(keras.tree.map_structure(np.asarray, batch[1]))
    if not images:
        raise DataError(f"There is no {name} batch.")
    return np.concatenate(images), keras.tree.map_structure(lambda *parts: np.concatenate(parts), *labels)


def as_images(array: np.ndarray) -> np.ndarray:
    """Numbers of shape (n, ...) as float32.

    Raises:
        DataError: they are not numbers, or have no axis besides the first.
    """
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.number) or array.ndim < 2:
        raise DataError(f"Images are numbers of shape (n, ...). Received: {array.dtype} of shape {array.shape}")
    return array.astype(np.float32)
