"""The three splits, the same rule for every data set."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from autoprune.data.fitting import fitted, preparation_for
from autoprune.data.streaming import ImageSource, LazyImages, part
from autoprune.errors import DataError
from autoprune.registry import Registry
from autoprune.settings import DataSettings, ModelSettings


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels.

    Attributes:
        images: (n, *input shape) float32, ready to be fed to the model; images that are read as they are needed give
            that for a slice or an integer array, see `LazyImages`.
        labels: (n,) int64 class numbers.
    """

    images: np.ndarray | LazyImages
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images of shape {self.images.shape[1:]})"

    def head(self, count: int) -> "Split":
        """The first `count` images."""
        return self.part(slice(count))

    def part(self, index: slice | np.ndarray) -> "Split":
        """Some of the images, by a slice or an integer array; none is read for that."""
        return Split(part(self.images, index), self.labels[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set, split.

    Attributes:
        name: for messages.
        train: for training and fine-tuning.
        reward: cut from the training images; scores plans, and chooses the best epoch of a training.
        test: for the final report alone.
        classes: number of classes.
    """

    name: str
    train: Split
    reward: Split
    test: Split
    classes: int

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
        labels: (n,) int64 class numbers.
    """

    images: np.ndarray | ImageSource
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


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


# For whom labels are none of a classifier's.
_OTHER_TASKS = (
    "Searches score classifiers with one class per image. Other models are pruned from Python (autoprune.make_plan, "
    "autoprune.apply_plan) and trained on by yourself."
)

Loader = Callable[[DataSettings], RawData]

DATASETS: Registry[Loader] = Registry("data set")


def load_data(settings: DataSettings, model: ModelSettings | None = None) -> Dataset:
    """Load a data set, fit its images to a model, and cut the reward split from the training images.

    Args:
        settings: which data.
        model: which model they are for: its input size and its preprocessing are the defaults of the data's.

    Raises:
        UnknownNameError: there is no such data set.
        DataError: the data are missing or malformed, or too few for the split.
        ModelError: the file of the model cannot be read.
        SettingsError: the preprocessing does not exist.
    """
    return split(settings, DATASETS.get(settings.name)(settings), model)


def from_arrays(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    reward_size: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """A data set of arrays in memory.

    Args:
        x_train: (n, *input shape) images as the model takes them.
        y_train: (n,) class numbers from 0 or booleans, or (n, classes) one-hot.
        x_test: likewise, for the final report alone.
        y_test: (m,) labels of the test images.
        reward_size: size of the reward split; a number below 1 is a share of the training images.
        seed: seed that the reward split is drawn with.

    Raises:
        DataError: labels or images cannot be used, or are too few.
    """
    train = Labelled(as_images(x_train), as_labels(y_train))
    raw = RawData(train, Labelled(as_images(x_test), as_labels(y_test)), classes=columns_of(y_train, y_test))
    return split(DataSettings("arrays", reward_size=reward_size, seed=seed), raw)


def as_images(array: np.ndarray) -> np.ndarray:
    """Numbers of shape (n, ...) as float32.

    Raises:
        DataError: they are not numbers, or have no axis besides the first.
    """
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.number) or array.ndim < 2:
        raise DataError(f"Images are numbers of shape (n, ...). Received: {array.dtype} of shape {array.shape}")
    return array.astype(np.float32)


def as_labels(array: np.ndarray) -> np.ndarray:
    """Class numbers, booleans (two classes) or one-hot rows, as (n,) int64.

    Raises:
        DataError: they are none of these; the message says what they are, and what can be done.
    """
    array = np.asarray(array)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        advice = ""
        if array.ndim == 1:
            advice = " Names become numbers with np.unique(labels, return_inverse=True)[1], of all splits at once."
        raise DataError(f"Labels are class numbers. Received: {array.dtype} of shape {array.shape}.{advice}")
    if len(array) == 0:
        return np.zeros(0, np.int64)
    if not np.isfinite(array).all():
        rows = int((~np.isfinite(array.reshape(len(array), -1))).any(1).sum())
        raise DataError(f"Labels are class numbers. Of {len(array)} labels {rows} are not finite: leave these out.")
    if columns_of(array) is not None:
        _check_one_hot(array)
        return array.argmax(1).astype(np.int64)
    flat = array.reshape(len(array), -1)
    if flat.shape[1] != 1:
        raise DataError(
            f"Labels are class numbers (n,) or one-hot rows (n, classes). Received: shape {array.shape}, such as masks "
            f"have, one for each image. {_OTHER_TASKS}"
        )
    if (flat != np.round(flat)).any():
        raise DataError(
            f"Labels are class numbers. Received: fractions, such as {flat[flat != np.round(flat)][0]:g}. Values to be "
            f"predicted are no classes. {_OTHER_TASKS}"
        )
    return flat[:, 0].astype(np.int64)


def columns_of(*arrays: np.ndarray) -> int | None:
    """How many classes the columns of one-hot labels stand for; None if all labels are of another kind.

    Raises:
        DataError: they differ in that.
    """
    shapes = [np.shape(array) for array in arrays]
    columns = {shape[1] for shape in shapes if len(shape) == 2 and shape[1] > 1}
    if len(columns) > 1:
        told = " and ".join(map(str, shapes))
        raise DataError(f"One-hot labels of training and test images have the same columns. Received: shapes {told}.")
    return columns.pop() if columns else None


def _check_one_hot(rows: np.ndarray) -> None:
    """Refuse rows of numbers that are not one-hot.

    Raises:
        DataError: saying what they look like instead.
    """
    said = f"Rows of labels must be one-hot: exactly one 1, the rest 0. Received: shape {rows.shape}, of which"
    other = ~np.isin(rows, (0, 1)).all(1)
    if other.any():
        first = ", ".join(f"{value:g}" for value in rows[other][0][:4])
        raise DataError(
            f"{said} {other.sum()} rows hold other values ({first}{', ...' if rows.shape[1] > 4 else ''}). If these "
            "are probabilities of classes, give labels.argmax(1). Key points, boxes and other values to be predicted "
            f"are no classes. {_OTHER_TASKS}"
        )
    ones = rows.sum(1)
    none, several = int((ones == 0).sum()), int((ones > 1).sum())
    if several:
        raise DataError(f"{said} {several} rows hold several: several labels per image are no classes. {_OTHER_TASKS}")
    if none:
        raise DataError(
            f"{said} {none} rows hold none. Leave out images of no class, or give them a class of their own."
        )


def fifth_aside(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training and of the test images of a data set without a test split, whatever `data.seed`."""
    train, test = train_test_split(np.arange(count), test_size=0.2, random_state=0)
    return train, test


def split(settings: DataSettings, raw: RawData, model: ModelSettings | None = None) -> Dataset:
    """Cut the reward split: a random subset of the training images, drawn with the seed.

    Of what is left, `data.train_size` images are used, if it is given: the first ones in the same random order, so that
    fewer are among more, and the reward split stays what it is.

    Raises:
        DataError: labels or images cannot be used, or too few images are left.
    """
    check(settings.name, raw)
    count = len(raw.train)
    wanted = settings.reward_size if settings.reward_size >= 1 else settings.reward_size * count
    reward_size = round(wanted)
    if not 0 < reward_size < count:
        raise DataError(
            f"The reward split needs at least 1 and fewer than all {count} training images. "
            f"Received: data.reward_size={settings.reward_size}"
        )
    order = np.random.default_rng(settings.seed).permutation(count)
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
    whole = Split(fitted(raw.train.images, preparation, raw.white), raw.train.labels)
    return Dataset(
        name=settings.dataset or (settings.name if own is None else Path(own).name),
        train=whole.part(train),
        reward=whole.part(reward),
        test=Split(fitted(raw.test.images, preparation, raw.white), raw.test.labels),
        classes=raw.classes or int(max(raw.train.labels.max(), raw.test.labels.max())) + 1,
    )


def check(name: str, raw: RawData) -> None:
    """Refuse data that no classifier can be trained on.

    Raises:
        DataError: saying what is wrong.
    """
    for part_name, some in (("training", raw.train), ("test", raw.test)):
        if len(some) == 0:
            raise DataError(f"The data set '{name}' has no {part_name} images.")
        if len(some.images) != len(some.labels):
            raise DataError(
                f"The data set '{name}' has {len(some.images)} {part_name} images but {len(some.labels)} labels."
            )
        lowest, highest = some.labels.min(), some.labels.max()
        if lowest < 0:
            raise DataError(f"Labels are class numbers from 0. Received in '{name}': {lowest}")
        if raw.classes is not None and highest >= raw.classes:
            raise DataError(f"'{name}' has {raw.classes} classes, numbered from 0. Received the label {highest}")
        if isinstance(some.images, np.ndarray) and not np.isfinite(some.images).all():
            raise DataError(f"The {part_name} images of '{name}' contain values that are not finite.")
    shapes = [some.images.shape[1:] for some in (raw.train, raw.test) if isinstance(some.images, np.ndarray)]
    if len(set(shapes)) > 1:
        raise DataError(f"Training and test images of '{name}' differ in shape: {shapes[0]} and {shapes[1]}.")
