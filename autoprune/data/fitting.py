"""What has to be done to the images of a data set for a model, and the images after that."""

import logging

import numpy as np

from autoprune.data.pixels import Preparation, preprocessing
from autoprune.data.streaming import ArraySource, ImageSource, LazyImages
from autoprune.errors import DataError
from autoprune.models import applications
from autoprune.models.building import input_shape_of
from autoprune.settings import DataSettings, ModelSettings

logger = logging.getLogger(__name__)

# Preprocessings that make something of any number of channels.
_OF_ANY_CHANNELS = ("none", "unit", "tf")


def preparation_for(
    settings: DataSettings, model: ModelSettings | None, images: np.ndarray | ImageSource, white: float | None
) -> Preparation | None:
    """How images become what a model takes; None if they stay what they are.

    Images in memory are resized when `data.image_size` says so or the model is one of `keras.applications`; pixels of
    unknown range only when it is asked for. Images that are read as they are needed always get one size.

    Args:
        settings: what was asked for.
        model: which model the images are for, if that is known.
        images: (n, height, width, channels) images of the data set.
        white: what white is in images in memory, None if that is not known.

    Raises:
        DataError: there is no way from these images to those that are wanted, or no size for them.
        ModelError: the file of the model cannot be read.
        SettingsError: the preprocessing does not exist.
    """
    application = model if model is not None and model.name in applications.names() else None
    unknown = white is None and isinstance(images, np.ndarray)
    usual = "none" if unknown else "unit"
    way = settings.preprocessing
    if way == "auto":
        way = usual if application is None or unknown else application.name
    preprocessing(way)
    if isinstance(images, np.ndarray):
        if images.ndim != 4:
            if settings.image_size is None and settings.preprocessing == "auto":
                return None
            raise DataError(
                "data.image_size and data.preprocessing are for images of shape (height, width, channels). Those of "
                f"'{settings.name}' have shape {images.shape[1:]}."
            )
        shape = _shape(settings, None if unknown else application, images.shape[1:])
        if way == usual and shape == images.shape[1:]:
            return None
    else:
        shape = _shape(settings, model, (None, None, 3))
    height, width, channels = shape
    if height is None or width is None or channels is None:
        raise DataError(
            f"The images of '{settings.name}' need a size, and the model takes any. Give "
            "data.image_size=[height,width]."
        )
    if channels != 3 and way not in _OF_ANY_CHANNELS:
        raise DataError(
            f"data.preprocessing={way} is for colour images; these are to have {channels} channels. Give "
            f"data.image_size=[{height},{width},3] or another preprocessing."
        )
    return Preparation((height, width, channels), settings.crop_to_aspect_ratio, way)


def fit_images(
    images: np.ndarray | ImageSource, preparation: Preparation | None, white: float | None
) -> np.ndarray | LazyImages:
    """The images of a data set as a model takes them."""
    if preparation is not None:
        source = ArraySource(images, white or 255.0) if isinstance(images, np.ndarray) else images
        return LazyImages(source, preparation)
    if not isinstance(images, np.ndarray):
        raise TypeError("Images that are read as they are needed have to be prepared.")
    return images


def _shape(
    settings: DataSettings, model: ModelSettings | None, given: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """Height, width and channels: as asked for, else the model's own, else as given."""
    own = None if model is None else input_shape_of(model)
    if own is not None and len(own) != 3:
        raise DataError(f"A model that takes {own} does not take images of shape (height, width, channels).")
    asked = (*(settings.image_size or ()), None, None, None)[:3]
    return tuple(
        next((size for size in sizes if size is not None), None)
        for sizes in zip(asked, own or (None, None, None), given, strict=True)
    )
