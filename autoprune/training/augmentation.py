"""Changes training images a little, anew in every epoch. Every change is drawn from the generator it is given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from autoprune.errors import DataError, SettingsError, words_of
from autoprune.registry import suggestion
from autoprune.settings import TrainingSettings

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# Keras's layers that change labels too: a batch of images is all that a change sees here.
_OF_LABELS = ("MixUp", "CutMix")


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


class KerasLayers:
    """A change made of Keras's own layers, one after the other.

    Args:
        specifications: for each layer a mapping from its class's name in `keras.layers` to its arguments.

    Raises:
        SettingsError: there is no such layer, it changes labels too, or it refuses its arguments.
    """

    def __init__(self, specifications: Sequence[Any]) -> None:
        base = keras.layers.RandomFlip.__mro__[1]  # of Keras's layers that change images
        kinds = {name: kind for name, kind in vars(keras.layers).items() if isinstance(kind, type)}
        known = [name for name, kind in kinds.items() if issubclass(kind, base) and name not in _OF_LABELS]
        self._layers = []
        for specification in specifications:
            if not isinstance(specification, Mapping) or len(specification) != 1:
                raise SettingsError(
                    "training.augmentation_layers must be a list of layers with their arguments, such as "
                    f"[{{RandomRotation: {{factor: 0.05}}}}]. Received: {specification!r}"
                )
            ((name, arguments),) = specification.items()
            if name not in known:
                raise SettingsError(
                    f"Keras has no layer '{name}' that changes images alone. {suggestion(str(name), known)}"
                )
            try:
                self._layers.append(kinds[name](**(arguments or {})))
            except (TypeError, ValueError, NotImplementedError) as error:
                raise SettingsError(f"keras.layers.{name} refuses {arguments}: {words_of(error, 500)}") from error

    def __call__(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Changed images: (n, height, width, channels) float32, as those that came.

        Raises:
            DataError: the layers change the shape of an image.
        """
        changed = images
        for layer in self._layers:
            renew_seeds(layer.variables, generator)
            changed = layer(changed, training=True)
        changed = keras.ops.convert_to_numpy(changed)
        if changed.shape != images.shape:
            raise DataError(
                f"training.augmentation_layers must leave images as large as they are. Received: {images.shape[1:]} "
                f"became {changed.shape[1:]}"
            )
        return changed.astype(np.float32, copy=False)


def renew_seeds(variables: Sequence[Any], generator: np.random.Generator) -> None:
    """Set every seed among a layer's or model's variables to one that is drawn: what follows depends on it alone."""
    for variable in variables:
        if variable.path.endswith("seed_generator_state"):
            variable.assign(np.array([generator.integers(2**31), 0], dtype=str(variable.dtype)))


_CHANGES: dict[str, Change] = {"shift": shift, "shift_flip": shift_flip}


def change_for(settings: TrainingSettings, shape: tuple[int, ...]) -> Change | None:
    """What is done to every batch of training images; None for nothing.

    Args:
        settings: `augmentation` and its layers.
        shape: (height, width, channels) of one image.

    Raises:
        DataError: these are no images.
        SettingsError: a layer cannot be used.
    """
    if settings.augmentation == "none":
        return None
    if len(shape) != 3:
        raise DataError(
            f"training.augmentation={settings.augmentation} changes images of shape (height, width, channels). "
            f"Received {shape}: set training.augmentation=none."
        )
    if settings.augmentation == "keras":
        return KerasLayers(settings.augmentation_layers)
    return _CHANGES[settings.augmentation]
