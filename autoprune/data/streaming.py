"""Images that stay where they are until they are asked for: no more are in memory than one index names.

A `LazyImages` stands where an array of images stands. `len`, `shape`, `dtype` and a choice of its images (`part`) read
nothing; an index reads the images that it names, as float32.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from autoprune.data.pixels import Preparation

# Decoding leaves the interpreter for most of its time; more threads than this wait for the disk and each other.
DECODING_THREADS = min(8, os.cpu_count() or 1)


class ImageSource(Protocol):
    """Images by number, of any size, not prepared for a model yet.

    Attributes:
        threads: how many images are worth reading at a time.
    """

    threads: int

    @property
    def identity(self) -> str:
        """What tells these images from others, known without reading all of them."""

    def __len__(self) -> int: ...

    def pixels(self, number: int) -> np.ndarray:
        """(height, width, channels) of one image, from 0 (black) to 255 (white). Called from several threads.

        Raises:
            DataError: it cannot be read; the message says which one.
        """


class LazyImages:
    """Prepared images of a source, read by index.

    Args:
        source: where they are.
        preparation: makes of each what the model takes.
        rows: numbers of the images in the source, in the order wanted; None is all of them.

    Attributes:
        shape: (n, height, width, channels).
        dtype: float32.
        ndim: 4.
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(self, source: ImageSource, preparation: Preparation, rows: np.ndarray | None = None) -> None:
        self._source = source
        self._preparation = preparation
        self._rows = np.arange(len(source)) if rows is None else rows
        self.shape = (len(self._rows), *preparation.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read images: by a slice or an integer array (k, height, width, channels), by a number one image.

        Raises:
            DataError: an image cannot be read.
            IndexError: there is no such image.
        """
        chosen = self._rows[index]
        rows = np.atleast_1d(chosen)
        found = np.empty((len(rows), *self.shape[1:]), np.float32)

        def read(place: int) -> None:
            found[place] = self._preparation.fit(self._source.pixels(int(rows[place])))

        if self._source.threads > 1 and len(rows) > 1:
            with ThreadPoolExecutor(self._source.threads) as pool:
                for _ in pool.map(read, range(len(rows))):
                    pass
        else:
            for place in range(len(rows)):
                read(place)
        images = self._preparation.scale(found)
        return images[0] if chosen.ndim == 0 else images

    def part(self, index: Any) -> "LazyImages":
        """Some of the images, by a slice or an integer array; none is read."""
        return LazyImages(self._source, self._preparation, self._rows[index])

    @property
    def identity(self) -> str:
        """Hash of what the images are: source, preparation and choice. 16 hexadecimal digits."""
        digest = hashlib.sha256(f"{self._source.identity}|{self._preparation}|".encode())
        digest.update(self._rows.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        """Refuse to become an array, which NumPy would make of all images.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{len(self)} images are read as they are needed, and not all at once. Take some of them: images[:100]"
        )


class ArraySource:
    """Images in memory that have to be prepared.

    Args:
        images: (n, height, width, channels).
        white: what white is in them.
    """

    threads = 1

    def __init__(self, images: np.ndarray, white: float) -> None:
        self._images = images
        self._factor = np.float32(255 / white)

    @property
    def identity(self) -> str:
        """Hash of the images."""
        digest = hashlib.sha256(np.ascontiguousarray(self._images).tobytes())
        return f"{digest.hexdigest()}|{self._factor}"

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, number: int) -> np.ndarray:
        """One image, white as 255."""
        return self._images[number] * self._factor
