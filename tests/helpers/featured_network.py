"""A small network whose features can be distilled, and what belongs to it."""

import keras
import numpy as np
from keras import layers

from autoprune.models.keras_internals import operations_by_path


def featured(width=8, seed=5):
    """Ten classes of 8 x 8 images, with batch norm, and dropout before the classifier."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 3, padding="same")(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2D(width, 3, strides=2, activation="relu", kernel_regularizer="l2")(x)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def summed():
    """Two classifiers, whose outputs are added: there is no such thing as what enters the one."""
    image = keras.Input((8, 8, 1))
    x = layers.Flatten()(image)
    return keras.Model(image, layers.Add()([layers.Dense(10)(x), layers.Dense(10)(x)]))


def gram(features):
    """As the paper has it, in plain NumPy and double precision."""
    products = features.astype(np.float64) @ features.astype(np.float64).T
    return products / np.linalg.norm(products, axis=1, keepdims=True)


def traces(model):
    """How often the layers and operations of a model are called, and their outputs used, by anything that is alive."""
    return {
        path: (len(operation._inbound_nodes), len(operation._outbound_nodes))
        for path, operation in operations_by_path(model).items()
    }
