"""The three splits, the same rule for every data set."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoprune.errors import DataError
from autoprune.registry import Registry
from autoprune.settings import DataSettings


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels.

    Attributes:
        images: (n, *input shape) float32, ready to be fed to the model.
        labels: (n,) int64 class numbers.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> "Split":
        """The first `count` images."""
        return Split(self.images[:count], self.labels[:count])


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
        """Hash of the splits. 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for split in (self.train, self.reward, self.test):
            digest.update(np.ascontiguousarray(split.images).tobytes())
            digest.update(np.ascontiguousarray(split.labels).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class RawData:
    """What a loader gives: labelled training and test images, not split further."""

    train: Split
    test: Split


Loader = Callable[[DataSettings], RawData]

DATASETS: Registry[Loader] = Registry("data set")


def load_data(settings: DataSettings) -> Dataset:
    """Load a data set and cut the reward split from its training images.

    Raises:
        UnknownNameError: there is no such data set.
        DataError: the data are missing or malformed, or too few for the split.
    """
    raw = DATASETS.get(settings.name)(settings)
    return split(settings, raw)


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
        y_train: (n,) class numbers from 0, or (n, classes) one-hot.
        x_test: likewise, for the final report alone.
        y_test: likewise.
        reward_size: size of the reward split; a number below 1 is a share of the training images.
        seed: of the reward split.

    Raises:
        DataError: labels or images cannot be used, or are too few.
    """
    train = Split(as_images(x_train), as_labels(y_train))
    raw = RawData(train, Split(as_images(x_test), as_labels(y_test)))
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
    """Class numbers, or one-hot rows, as (n,) int64.

    Raises:
        DataError: they are neither.
    """
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] > 1:
        return array.argmax(1).astype(np.int64)
    flat = array.reshape(len(array), -1)
    if flat.shape[1] != 1 or not np.issubdtype(array.dtype, np.number) or (flat != np.round(flat)).any():
        raise DataError(f"Labels are class numbers. Received: {array.dtype} of shape {array.shape}")
    return flat[:, 0].astype(np.int64)


def split(settings: DataSettings, raw: RawData) -> Dataset:
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
    return Dataset(
        name=settings.name if settings.path is None else Path(settings.path).name,
        train=Split(raw.train.images[train], raw.train.labels[train]),
        reward=Split(raw.train.images[reward], raw.train.labels[reward]),
        test=raw.test,
        classes=int(max(raw.train.labels.max(), raw.test.labels.max())) + 1,
    )


def check(name: str, raw: RawData) -> None:
    """Refuse data that no classifier can be trained on.

    Raises:
        DataError: saying what is wrong.
    """
    for part, some in (("training", raw.train), ("test", raw.test)):
        if len(some) == 0:
            raise DataError(f"The data set '{name}' has no {part} images.")
        if len(some.images) != len(some.labels):
            raise DataError(
                f"The data set '{name}' has {len(some.images)} {part} images but {len(some.labels)} labels."
            )
        if some.labels.min() < 0:
            raise DataError(f"Labels are class numbers from 0. Received in '{name}': {some.labels.min()}")
        if not np.isfinite(some.images).all():
            raise DataError(f"The {part} images of '{name}' contain values that are not finite.")
    if raw.train.images.shape[1:] != raw.test.images.shape[1:]:
        raise DataError(
            f"Training and test images of '{name}' differ in shape: {raw.train.images.shape[1:]} and "
            f"{raw.test.images.shape[1:]}."
        )
