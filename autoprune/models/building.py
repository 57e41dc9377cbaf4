"""From what the options say to a model: an architecture of the zoo, a network of `keras.applications`, or a file."""

from typing import Any

from autoprune.errors import ModelError, SettingsError
from autoprune.models import applications, zoo
from autoprune.models.files import load_model
from autoprune.settings import ModelSettings


def build_model(settings: ModelSettings, shape: tuple[int, ...] | None, classes: int | None) -> Any:
    """A model of the zoo, untrained, or of `keras.applications`, with the weights that were asked for.

    Args:
        settings: which model; not a file.
        shape: shape of one image, or None for what the network is known for.
        classes: number of classes, or None likewise.

    Raises:
        ModelError: the weights cannot be had, or the network does not take such images.
        SettingsError: the options do not go together.
        UnknownNameError: there is no such model.
    """
    if settings.name in applications.names():
        if settings.width != 1:
            raise SettingsError(f"model.width is for architectures of the zoo. Received: {settings.width}")
        return applications.build(settings.name, shape, classes, settings.weights)
    if settings.weights is not None:
        raise SettingsError(
            f"model.weights is for model=application; '{settings.name}' is none. Received: {settings.weights}. A model "
            "with its weights is given with model=file model.path=FILE.keras."
        )
    return zoo.build(settings.name, shape, classes, settings.width)


def is_ready(settings: ModelSettings, classes: int) -> bool:
    """Whether the model comes with all its weights, so that it is not trained."""
    return settings.name in applications.names() and applications.is_ready(settings.weights, classes)


def input_shape_of(settings: ModelSettings) -> tuple[int | None, ...] | None:
    """The shape of one image that the model will have whatever the data; None if it takes what the data are.

    A side that a file leaves open is None.

    Raises:
        ModelError: it is a file that is missing or cannot be read.
    """
    if settings.input_shape:
        return tuple(settings.input_shape)
    if settings.name in applications.names():
        return applications.input_shape(settings.name)
    if settings.name != "file":
        return None
    if not isinstance(settings.path, str):
        raise ModelError("model=file needs model.path=FILE.keras.")
    model = load_model(settings.path, settings)
    return tuple(model.inputs[0].shape[1:]) if len(model.inputs) == 1 else None
