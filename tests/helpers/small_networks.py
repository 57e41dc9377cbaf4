"""Networks of a few layers, trained for seconds: commands compile and trace them in a fraction of what others take.

On a tpu_v5e with 128 images, half of the widths leave some 60% of the latency.
"""

import keras
from keras import layers

from autoprune.models.files import save_model
from autoprune.settings import TrainingSettings
from autoprune.training import train


def residual():
    """Two groups and a branch around a sum, and a group behind it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = _conv(64, "stem")(image)
    x = layers.Add(name="add")([x, _conv(64, "second")(_conv(64, "first")(x))])
    return _classifier(image, x, "residual")


def dense_block():
    """The branch joins the stem in a concatenation."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = _conv(64, "stem")(image)
    x = layers.Concatenate(name="join")([x, _conv(64, "new")(x)])
    return _classifier(image, x, "dense_block")


def save_trained(model, path, data):
    """Train a network a little and save it; the path."""
    train(model, data, TrainingSettings(batch_size=16), epochs=2, learning_rate=5e-3, seed=0)
    save_model(model, path)
    return path


def _conv(channels, name, strides=1):
    return layers.Conv2D(channels, 3, strides=strides, padding="same", activation="relu", name=name)


def _classifier(image, x, name):
    x = layers.GlobalAveragePooling2D(name="pool")(_conv(128, "last", strides=2)(x))
    return keras.Model(image, layers.Dense(10, name="classes")(x), name=name)
