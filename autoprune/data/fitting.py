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
    application = model is not None and model.name in applications.names()
    in_memory = isinstance(images, np.ndarray)
    usual = "none" if in_memory and white is None else "unit"
    way = settings.preprocessing
    if way == "auto":
        way = model.name if application and not (in_memory and white is None) else usual
    preprocessing(way)
    if in_memory:
        own = applications_shape(model) if application and white is not None else None
        if images.ndim != 4:
            return _refuse_image_options(settings, images)
        shape = _shape(settings, own, images.shape[1:])
        if way == usual and shape == images.shape[1:]:
            return None
    else:
        shape = _shape(settings, None if model is None else input_shape_of(model), (None, None, 3))
    return Preparation(_check_shape(shape, settings, way), settings.crop_to_aspect_ratio, way)


def _refuse_image_options(settings: DataSettings, images: np.ndarray) -> None:
    """Refuse options that are for images only."""
    if settings.image_size is not None or settings.preprocessing != "auto":
        raise DataError(
            "data.image_size and data.preprocessing are for images of shape (height, width, channels). Those of "
            f"'{settings.name}' have shape {images.shape[1:]}."
        )


def applications_shape(model: ModelSettings) -> tuple[int, ...]:
    """The input shape of a network of `keras.applications`, as it was asked for or as Keras has it."""
    return tuple(model.input_shape or applications.input_shape(model.name))


def fitted(
    images: np.ndarray | ImageSource, preparation: Preparation | None, white: float | None
) -> np.ndarray | LazyImages:
    """The images of a data set as a model takes them."""
    if not isinstance(images, np.ndarray):
        return LazyImages(images, preparation)
    return images if preparation is None else LazyImages(ArraySource(images, white or 255.0), preparation)


def _shape(
    settings: DataSettings, own: tuple[int | None, ...] | None, given: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """Height, width and channels: as asked for, else the model's own, else as given."""
    if own is not None and len(own) != 3:
        raise DataError(f"A model that takes {own} does not take images of shape (height, width, channels).")
    asked = (*(settings.image_size or ()), None, None, None)[:3]
    return tuple(
        next((size for size in sizes if size is not None), None)
        for sizes in zip(asked, own or (None, None, None), given, strict=True)
    )


def _check_shape(shape: tuple[int | None, ...], settings: DataSettings, way: str) -> tuple[int, int, int]:
    """The shape, once it is sure that images can be brought to it."""
    if None in shape:
        raise DataError(
            f"The images of '{settings.name}' need a size, and the model takes any. Give "
            "data.image_size=[height,width]."
        )
    if shape[2] != 3 and way not in _OF_ANY_CHANNELS:
        raise DataError(
            f"data.preprocessing={way} is for colour images; these are to have {shape[2]} channels. Give "
            f"data.image_size=[{shape[0]},{shape[1]},3] or another preprocessing."
        )
    return shape
