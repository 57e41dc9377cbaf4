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


def split(settings: DataSettings, raw: RawData) -> Dataset:
    """Cut the reward split: a random subset of the training images, drawn with the seed.

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
