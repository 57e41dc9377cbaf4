"""From the pixels of one image to what a model takes: channels, size, values. Pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np

from autoprune.errors import DataError, SettingsError
from autoprune.models import applications
from autoprune.registry import suggestion

# What each colour gives to grey, by ITU-R BT.601, as in every image library.
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)

Scale = Callable[[np.ndarray], np.ndarray]


PREPROCESSINGS: dict[str, Scale] = {
    "none": lambda batch: batch,
    "unit": lambda batch: batch / np.float32(255),
    **{
        mode: partial(keras.applications.imagenet_utils.preprocess_input, data_format="channels_last", mode=mode)
        for mode in ("tf", "caffe", "torch")
    },
}


def preprocessing(name: str) -> Scale:
    """What turns a batch of pixels from 0 to 255 into values for a model; it may change the batch in place.

    Args:
        name: `none`, `unit` (0 to 1), `tf` (-1 to 1), `caffe` (blue first, mean of ImageNet taken off), `torch` (0 to
            1, then mean and deviation of ImageNet), or a model of `keras.applications` for its own `preprocess_input`.

    Raises:
        SettingsError: there is no such way.
    """
    if name in PREPROCESSINGS:
        return PREPROCESSINGS[name]
    if name in applications.names():
        return applications.preprocess_input(name)
    known = [*PREPROCESSINGS, "auto"]
    raise SettingsError(
        f"There is no data.preprocessing '{name}'. {suggestion(name, known)} Or a model of keras.applications, such as "
        "ResNet50, for its own."
    )


@dataclass(frozen=True)
class Preparation:
    """What is done to an image.

    Attributes:
        shape: (height, width, channels) that it gets.
        crop: cut to the aspect ratio of the shape around the middle before resizing, instead of distorting.
        preprocessing: see `preprocessing`.
    """

    shape: tuple[int, int, int]
    crop: bool
    preprocessing: str

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """One image of any size, from 0 to 255, with the channels and the size wanted."""
        height, width, channels = self.shape
        image = with_channels(pixels.astype(np.float32), channels)
        return resize(image, (height, width), crop=self.crop)

    def scale(self, batch: np.ndarray) -> np.ndarray:
        """(n, *shape) float32 from 0 to 255, with the values wanted. The batch may be changed."""
        return np.ascontiguousarray(preprocessing(self.preprocessing)(batch), np.float32)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """An image with 1 or 3 channels: grey is repeated, colours are weighted to grey, an alpha channel is dropped.

    Args:
        image: (height, width, channels).
        channels: wanted.

    Raises:
        DataError: there is no such way from the channels that it has.
    """
    found = image.shape[-1]
    if found == channels:
        return image
    if found in (2, 4):
        return with_channels(image[..., :-1], channels)
    if (found, channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (found, channels) == (3, 1):
        return (image @ _LUMINANCE)[..., np.newaxis]
    raise DataError(
        f"An image of {found} channels cannot become one of {channels}: there is a way between grey (1) and colour (3) "
        "only. Choose another model or data.image_size=[height,width,channels]."
    )


def resize(image: np.ndarray, size: tuple[int, int], *, crop: bool = False) -> np.ndarray:
    """Bilinear interpolation between the centres of pixels, as `keras.utils.image_dataset_from_directory` does it.

    In NumPy, so that a data set is the same on every backend and in every thread.

    Args:
        image: (height, width, channels) float32.
        size: height and width wanted.
        crop: cut the longer side first, equally at both ends, so that nothing is distorted.
    """
    if crop:
        (height, width), (wanted_height, wanted_width) = image.shape[:2], size
        kept_height = max(min(height, width * wanted_height // wanted_width), 1)
        kept_width = max(min(width, height * wanted_width // wanted_height), 1)
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        image = image[top : top + kept_height, left : left + kept_width]
    if image.shape[:2] == tuple(size):
        return image
    sides = []
    for count, wanted in zip(image.shape[:2], size, strict=True):
        # For each of the pixels wanted along one side: the two neighbours that it lies between, and how far.
        place = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * np.float32(count / wanted) - np.float32(0.5)
        floor = np.floor(place)
        first = np.maximum(floor, 0).astype(np.int64)
        second = np.minimum(np.ceil(place), count - 1).astype(np.int64)
        sides.append((first, second, (place - floor).astype(np.float32)))
    (above, below, down), (before, behind, along) = sides
    rows = _mix(image[above], image[below], down[:, None, None])
    return _mix(np.take(rows, before, axis=1), np.take(rows, behind, axis=1), along[None, :, None])


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`first` with a share of `second`. In place of the second."""
    second -= first
    second *= share
    second += first
    return second
