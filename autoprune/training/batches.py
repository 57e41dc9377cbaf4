"""Batches of a split, in an order that the seed and the number of the epoch alone decide.

So an epoch can be begun in its middle, in another process, and is the same. Images are only sliced and picked by
index, so that a split may read them from a disk.
"""

from typing import Any

import keras
import numpy as np

from autoprune.errors import DataError
from autoprune.training.augmentation import Change


class Batches(keras.utils.PyDataset):
    """Training batches: shuffled anew in every epoch, and changed if asked for.

    Args:
        images: (n, *input shape) float32.
        targets: (n, ...) what the network shall give.
        batch_size: images per batch.
        seed: of the order and of the changes.
        change: of a batch, drawn from the seed, the epoch and the batch's number.
        whole: leave out a shorter last batch, which every epoch is another one.

    Raises:
        DataError: with `whole`, there are fewer images than a batch.
    """

    def __init__(
        self,
        images: Any,
        targets: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        change: Change | None = None,
        whole: bool = False,
    ) -> None:
        super().__init__()
        if whole and len(targets) < batch_size:
            raise DataError(
                f"There are {len(targets)} training images, fewer than a batch of {batch_size}. Set "
                f"training.batch_size to {len(targets)} or less."
            )
        self._images = images
        self._targets = targets
        self._batch_size = batch_size
        self._seed = seed
        self._change = change
        self._whole = whole
        self.begin(0)

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        count = len(self._targets)
        return count // self._batch_size if self._whole else -(-count // self._batch_size)

    def seen(self, step: int) -> int:
        """Images in so many steps of an epoch."""
        return min(step * self._batch_size, len(self._targets))

    def begin(self, epoch: int, step: int = 0) -> None:
        """Give the batches of an epoch, counted from 0, from a step on."""
        self._epoch = epoch
        self._first = step
        self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._targets))

    def __len__(self) -> int:
        return self.steps - self._first

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        step = self._first + index
        chosen = self._order[step * self._batch_size : (step + 1) * self._batch_size]
        images = self._images[chosen]
        if self._change is not None:
            images = self._change(images, np.random.default_rng([self._seed, self._epoch, step]))
        return images, self._targets[chosen]


class InOrder(keras.utils.PyDataset):
    """Batches of a split to be judged by, in its own order.

    Args:
        images: (n, *input shape) float32.
        targets: (n, ...).
        batch_size: images per batch.
        padded: fill the last batch up with its last image, which then counts nothing: every batch has one shape, and a
            weight of 1 or 0 for each image.
    """

    def __init__(self, images: Any, targets: np.ndarray, *, batch_size: int, padded: bool = False) -> None:
        super().__init__()
        self._images = images
        self._targets = targets
        self._batch_size = batch_size
        self._padded = padded

    def __len__(self) -> int:
        return -(-len(self._targets) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        part = slice(index * self._batch_size, (index + 1) * self._batch_size)
        images, targets = self._images[part], self._targets[part]
        if not self._padded:
            return images, targets
        missing = self._batch_size - len(targets)
        weights = np.r_[np.ones(len(targets), np.float32), np.zeros(missing, np.float32)]
        if missing:
            images, targets = (
                np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in (images, targets)
            )
        return images, targets, weights
