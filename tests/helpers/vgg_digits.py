"""A small VGG on scikit-learn's digits, and what stands where a compiler stands: a time that channels add up to."""

from concurrent.futures import Future
from dataclasses import replace

import keras
import numpy as np
from keras import layers

from autoprune.data import load_data
from autoprune.records import Memory
from autoprune.settings import DataSettings, TrainingSettings
from autoprune.training import train
from helpers import toy

WIDTH = 16
NAMES = tuple(f"conv{number}" for number in range(6))


class Unread:
    """Images that nothing may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"the test images were asked for their {name}")

    def __getitem__(self, index):
        raise AssertionError("test images were read")

    __len__ = __array__ = __getitem__


def digits():
    """500 training and 200 reward images; the test images cannot be read."""
    data = load_data(DataSettings("digits", reward_size=200))
    return replace(data, train=data.train.head(500), test=replace(data.test, images=Unread()))


def vgg(widths=(WIDTH,) * 6):
    """Three stages of two convolutions."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1))
    for name, width in zip(NAMES, widths, strict=True):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
        if name in NAMES[1::2]:
            x = layers.MaxPooling2D(name=f"{name}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(image, layers.Dense(10, name="classes")(x), name="vgg")


def trained(data, epochs, widths=(WIDTH,) * 6):
    """Trained by Adam from the same weights each time."""
    model = vgg(widths)
    settings = TrainingSettings(batch_size=32)
    train(model, data, settings, epochs=epochs, learning_rate=3e-3, seed=0)
    return model


class ChannelTime:
    """A cost model under which a convolution takes a second for each of its channels."""

    target = toy.TARGET

    def submit(self, model):
        answer = Future()
        answer.set_result(toy.cost_report(float(channels_of(model)), Memory(1000, 1000, 1000, 3000)))
        return answer


def channels_of(model):
    """Channels of all convolutions."""
    return sum(int(np.shape(layer.kernel)[-1]) for layer in model.layers if isinstance(layer, layers.Conv2D))


class KnownTime:
    """Predictions of that time, which are always right."""

    ready, error = True, None

    def predict_all(self, widths):
        return np.asarray(widths, float).sum(axis=-1), None

    def observe(self, widths, cost):
        pass
