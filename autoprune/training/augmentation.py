"""Changes training images a little, anew in every epoch."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def shift(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Move each image by up to an eighth of its height and width; what comes in is zero.

    Args:
        images: (n, height, width, channels).
        generator: draws the distances.
    """
    height, width = images.shape[1:3]
    reach = (max(height // 8, 1), max(width // 8, 1))
    padded = np.pad(images, [(0, 0), *((r, r) for r in reach), (0, 0)])
    tops, lefts = (generator.integers(0, 2 * r + 1, len(images)) for r in reach)
    rows = tops[:, None, None] + np.arange(height)[None, :, None]
    columns = lefts[:, None, None] + np.arange(width)[None, None, :]
    return padded[np.arange(len(images))[:, None, None], rows, columns]


def shift_flip(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As `shift`, and every second image, at random, mirrored left to right."""
    images = shift(images, generator)
    mirrored = generator.random(len(images)) < 0.5
    images[mirrored] = images[mirrored, :, ::-1]
    return images


AUGMENTATIONS: dict[str, Change] = {"shift": shift, "shift_flip": shift_flip}


class Augmented(keras.utils.PyDataset):
    """Shuffled batches of changed images.

    Args:
        images: (n, height, width, channels).
        targets: (n, ...) what the network shall give.
        change: of a batch.
        batch_size: images per batch; the last may be shorter.
        seed: of the order and of the changes.
    """

    def __init__(self, images: np.ndarray, targets: np.ndarray, change: Change, *, batch_size: int, seed: int) -> None:
        super().__init__()
        self._images = images
        self._targets = targets
        self._change = change
        self._batch_size = batch_size
        self._generator = np.random.default_rng(seed)
        self._order = self._generator.permutation(len(images))

    def __len__(self) -> int:
        return -(-len(self._images) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._change(self._images[chosen], self._generator), self._targets[chosen]

    def on_epoch_end(self) -> None:
        """Another order for the next epoch."""
        self._order = self._generator.permutation(len(self._images))
