"""The three splits, the same rule for every data set."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from autoprune.data.fitting import fit_images, preparation_for
from autoprune.data.streaming import ImageSource, LazyImages
from autoprune.errors import DataError
from autoprune.registry import Registry
from autoprune.settings import DataSettings, ModelSettings, TaskSettings
from autoprune.tasks import CLASSIFICATION, Task, make_task
from autoprune.tasks.labels import columns_of


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels.

    Attributes:
        images: (n, *input shape) float32, ready to be fed to the model; images that are read as they are needed give
            that for a slice or an integer array, see `LazyImages`.
        labels: (n,) int64 class numbers, or what the task has for labels.
        task: what a model is to make of the images.
    """

    images: np.ndarray | LazyImages
    labels: np.ndarray
    task: Task = CLASSIFICATION

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images of shape {self.images.shape[1:]})"

    def head(self, count: int) -> "Split":
        """The first `count` images."""
        return self.part(slice(count))

    def part(self, index: slice | np.ndarray) -> "Split":
        """Some of the images, by a slice or an integer array; none is read for that."""
        images = self.images.part(index) if isinstance(self.images, LazyImages) else self.images[index]
        return Split(images, self.labels[index], self.task)


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set, split.

    Attributes:
        name: for messages.
        train: for training and fine-tuning.
        reward: cut from the training images; scores plans, and chooses the best epoch of a training.
        test: for the final report alone.
        classes: number of classes; 0 where labels are none.
        chosen: the classes that images are of, where others were left out; None is all.
    """

    name: str
    train: Split
    reward: Split
    test: Split
    classes: int
    chosen: tuple[int, ...] | None = None

    @property
    def task(self) -> Task:
        """What a model is to make of the images."""
        return self.train.task

    def for_task(self, task: Task) -> "Dataset":
        """The same data for another task of the same labels, such as one with another measure of quality."""
        splits = {name: replace(getattr(self, name), task=task) for name in ("train", "reward", "test")}
        return replace(self, **splits)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.train.images.shape[1:]

    def fingerprint(self) -> str:
        """Hash of the splits. 16 hexadecimal digits.

        Of images that are read as they are needed, it is of which they are (files and their sizes) and how they are
        prepared.
        """
        digest = hashlib.sha256()
        for split in (self.train, self.reward, self.test):
            if isinstance(split.images, LazyImages):
                digest.update(split.images.identity.encode())
            else:
                digest.update(np.ascontiguousarray(split.images).tobytes())
            digest.update(np.ascontiguousarray(split.labels).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Labelled:
    """What a loader gives: images, in memory or where they are, and labels.

    Attributes:
        images: (n, *input shape) float32, or a source that reads one image at a time.
        labels: (n, ...) as they are found, of several outputs a mapping; a task reads them.
    """

    images: np.ndarray | ImageSource
    labels: Any

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class RawData:
    """Labelled training and test images, not split further and not prepared for a model.

    Attributes:
        train: for training and rewards.
        test: for the final report.
        white: what white is in images in memory; None if they are not known to be pixels.
        classes: number of classes, or None: as many as the labels say.
    """

    train: Labelled
    test: Labelled
    white: float | None = None
    classes: int | None = None


Loader = Callable[[DataSettings], RawData]

DATASETS: Registry[Loader] = Registry("data set")


def load_data(settings: DataSettings, model: ModelSettings | None = None, task: TaskSettings | None = None) -> Dataset:
    """Load a data set, fit its images to a model, and cut the reward split from the training images.

    Args:
        settings: which data.
        model: which model they are for: its input size and its preprocessing are the defaults of the data's.
        task: what the model is to make of them; None is classification.

    Raises:
        UnknownNameError: there is no such data set.
        DataError: the data are missing or malformed, too few for the split, or have no labels for the task.
        ModelError: the file of the model cannot be read.
        SettingsError: the preprocessing or the metric does not exist.
    """
    purpose = CLASSIFICATION if task is None else make_task(task)
    return split(settings, DATASETS.get(settings.name)(settings), model, purpose)


def fifth_aside(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training and of the test images of a data set without a test split, whatever `data.seed`."""
    train, test = train_test_split(np.arange(count), test_size=0.2, random_state=0)
    return train, test


def split(
    settings: DataSettings, raw: RawData, model: ModelSettings | None = None, task: Task = CLASSIFICATION
) -> Dataset:
    """Cut the reward split: a random subset of the training images, drawn with the seed.

    Of what is left, `data.train_size` images are used, if it is given: the first ones in the same random order, so that
    fewer are among more, and the reward split stays what it is. Images of other classes than `data.classes` are left
    out before that.

    Raises:
        DataError: labels or images cannot be used, or too few images are left; there is no such class, or the task is
            another than to name classes.
    """
    columns = columns_of(raw.train.labels, raw.test.labels) if task.names_classes else None
    task, labels = task.read_labels(raw.train.labels)
    tested = replace(raw.test, labels=task.read_labels(raw.test.labels)[1])
    raw = replace(raw, train=replace(raw.train, labels=labels), test=tested, classes=raw.classes or columns)
    check(settings.name, raw, task)
    number_of_classes = raw.classes or 0
    if not number_of_classes and len(task.heads) == 1:
        number_of_classes = max(task.heads[0].count_classes(some.labels) for some in (raw.train, raw.test))
    rows = [np.arange(len(some)) for some in (raw.train, raw.test)]
    if settings.classes is not None:
        rows = _rows_of_classes(settings, raw, task, number_of_classes)
    count = len(rows[0])
    wanted = settings.reward_size if settings.reward_size >= 1 else settings.reward_size * count
    reward_size = round(wanted)
    if not 0 < reward_size < count:
        raise DataError(
            f"The reward split needs at least 1 and fewer than all {count} training images. "
            f"Received: data.reward_size={settings.reward_size}"
        )
    order = rows[0][np.random.default_rng(settings.seed).permutation(count)]
    reward, train = order[:reward_size], order[reward_size:]
    if settings.train_size is not None:
        if settings.train_size > len(train):
            raise DataError(
                f"The reward split of {reward_size} images leaves {len(train)} of {count} for training. "
                f"Received: data.train_size={settings.train_size}"
            )
        train = train[: settings.train_size]
    own = settings.path or (settings.dir if settings.name == "image_folder" else None)
    preparation = preparation_for(settings, model, raw.train.images, raw.white)
    whole = Split(fit_images(raw.train.images, preparation, raw.white), raw.train.labels, task)
    test = Split(fit_images(raw.test.images, preparation, raw.white), raw.test.labels, task)
    return Dataset(
        name=settings.dataset or (settings.name if own is None else Path(own).name),
        train=whole.part(train),
        reward=whole.part(reward),
        test=test if settings.classes is None else test.part(rows[1]),
        classes=number_of_classes,
        chosen=None if settings.classes is None else tuple(sorted(settings.classes)),
    )


def _rows_of_classes(settings: DataSettings, raw: RawData, task: Task, count: int) -> list[np.ndarray]:
    """Which training and which test images are of the classes that are asked for.

    Args:
        settings: which classes.
        raw: with labels that the task has read.
        task: what the labels are.
        count: number of classes.

    Raises:
        DataError: the task names no classes, there is no such class, or one has no image.
    """
    classes = settings.classes or []
    if not task.names_classes:
        raise DataError(f"data.classes chooses among the classes of images: task=classification. Received: {task.name}")
    if max(classes) >= count:
        raise DataError(
            f"'{settings.name}' has {count} classes, numbered from 0. Received: data.classes={list(classes)}"
        )
    for part_name, some in (("training", raw.train), ("test", raw.test)):
        lacking = sorted(set(classes) - set(np.unique(some.labels).tolist()))
        if lacking:
            raise DataError(f"data.classes: '{settings.name}' has no {part_name} image of the classes {lacking}.")
    return [np.flatnonzero(np.isin(some.labels, classes)) for some in (raw.train, raw.test)]


def check(name: str, raw: RawData, task: Task = CLASSIFICATION) -> None:
    """Refuse data that no model can be trained on.

    Raises:
        DataError: saying what is wrong.
    """
    for part_name, some in (("training", raw.train), ("test", raw.test)):
        if len(some.labels) == 0:
            raise DataError(f"The data set '{name}' has no {part_name} images.")
        if len(some.images) != len(some.labels):
            raise DataError(
                f"The data set '{name}' has {len(some.images)} {part_name} images but {len(some.labels)} labels."
            )
        if task.names_classes:
            lowest, highest = some.labels.min(), some.labels.max()
            if lowest < 0:
                raise DataError(f"Labels are class numbers from 0. Received in '{name}': {lowest}")
            if raw.classes is not None and highest >= raw.classes:
                raise DataError(f"'{name}' has {raw.classes} classes, numbered from 0. Received the label {highest}")
        if isinstance(some.images, np.ndarray) and not np.isfinite(some.images).all():
            raise DataError(f"The {part_name} images of '{name}' contain values that are not finite.")
    told = [some.labels.shape[1:] for some in (raw.train, raw.test)]
    if told[0] != told[1]:
        raise DataError(f"Training and test labels of '{name}' differ in shape: {told[0]} and {told[1]}.")
    shapes = [some.images.shape[1:] for some in (raw.train, raw.test) if isinstance(some.images, np.ndarray)]
    if len(set(shapes)) > 1:
        raise DataError(f"Training and test images of '{name}' differ in shape: {shapes[0]} and {shapes[1]}.")
