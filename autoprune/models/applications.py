"""The networks of `keras.applications`: built, with weights or without, and what their images have to look like."""

import inspect
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autoprune.errors import ModelError, words_of

IMAGENET_CLASSES = 1000
# Pixels of either side that Keras builds a network for when it is told none; all others take 224.
_SIDES = {
    **dict.fromkeys(("InceptionResNetV2", "InceptionV3", "Xception"), 299),
    **{f"EfficientNetB{n}": side for n, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))},
    **{f"EfficientNetV2{n}": side for n, side in zip(("B1", "B2", "B3"), (240, 260, 300), strict=True)},
    **{f"EfficientNetV2{n}": side for n, side in zip("SML", (384, 480, 480), strict=True)},
    "NASNetLarge": 331,
}


@cache
def names() -> tuple[str, ...]:
    """Names of all networks, as they are called in Keras, in alphabetical order."""
    found = vars(keras.applications).items()
    return tuple(sorted(name for name, entry in found if inspect.isfunction(entry) and not name.startswith("_")))


def input_shape(name: str) -> tuple[int, int, int]:
    """(height, width, 3) that Keras builds a network for."""
    side = _SIDES.get(name, 224)
    return (side, side, 3)


def preprocess_input(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The network's own preprocessing, of pixels from 0 to 255, (n, height, width, 3); it may work in place."""
    modules = {
        key: found
        for key, found in vars(keras.applications).items()
        if inspect.ismodule(found) and hasattr(found, "preprocess_input")
    }
    module = next((found for found in modules.values() if hasattr(found, name)), None)
    if module is None:  # MobileNetV3 is not in the module that has its preprocessing.
        near = [key for key in modules if name.lower().startswith(key.replace("_", ""))]
        module = modules[max(near, key=len)]
    return partial(module.preprocess_input, data_format="channels_last")


def is_ready(weights: str | None, classes: int) -> bool:
    """Whether a network with such weights needs no training: they reach up to its classifier."""
    return weights is not None and (weights != "imagenet" or classes == IMAGENET_CLASSES)


def build(
    name: str,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    weights: str | None = None,
) -> Any:
    """A network of `keras.applications`.

    With weights of ImageNet and another number of classes, it is the network without its classifier, and average
    pooling and an untrained dense layer after it.

    Args:
        name: name of the network in `keras.applications`.
        shape: (height, width, 3) of an image, or None for the network's own.
        classes: number of classes, or None for the 1,000 of ImageNet.
        weights: None for new ones, `imagenet` for Keras's, which it downloads, or a `.weights.h5` file for this very
            network.

    Raises:
        ModelError: the file is missing or belongs to another network, the weights cannot be downloaded, or the network
            does not take images of that shape.
    """
    classes = classes or IMAGENET_CLASSES
    shape = tuple(shape or input_shape(name))
    advice = ""
    if weights == "imagenet":
        advice = (
            " Without a connection, name a file that was downloaded elsewhere: model.weights=FILE.weights.h5, or begin "
            "with new weights: model.weights=null."
        )
    elif weights is not None:
        advice = " The file must be of the same network, input shape and number of classes (model.classes)."
        if weights.endswith(".keras"):
            raise ModelError(f"'{weights}' is a whole model: choose model=file model.path={weights} instead.")
        if not Path(weights).is_file():
            raise ModelError(
                f"There is no file '{weights}'. model.weights is imagenet, null, or a .weights.h5 file written by "
                "save_weights."
            )
    make = getattr(keras.applications, name)
    try:
        if weights is None or is_ready(weights, classes):
            return make(weights=weights, input_shape=shape, classes=classes)
        body = make(weights=weights, input_shape=shape, include_top=False, pooling="avg")
    except Exception as error:
        raise ModelError(
            f"{name} for images of {shape} and {classes} classes could not be built with weights={weights}: "
            f"{words_of(error)}{advice}"
        ) from error
    outputs = keras.layers.Dense(classes, activation="softmax", name="predictions")(body.output)
    return keras.Model(body.input, outputs, name=body.name)
