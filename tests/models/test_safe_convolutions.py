"""The gradient of strided 1x1 convolutions, which corrupts memory, is avoided wherever a model is trained."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import Dataset, Split
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.settings import TrainingSettings
from autoprune.surgery import apply_plan
from autoprune.training import train
from helpers.plans import uneven_plan
from helpers.topologies import images_for, made


def strided(format_="channels_last"):
    shape = (7, 9, 3) if format_ == "channels_last" else (3, 17, 19)
    image = keras.Input(shape)
    x = layers.Conv2D(4, 1, strides=2, padding="same", data_format=format_, name="same")(image)
    x = layers.Conv2D(5, 1, strides=(3, 2), data_format=format_, name="valid")(x)
    x = layers.Conv2D(5, 3, strides=2, padding="same", data_format=format_, name="wide")(x)
    return keras.Model(image, layers.Flatten()(x))


@pytest.mark.parametrize("format_", ["channels_last", "channels_first"])
def test_safe_convolutions_compute_the_same(format_):
    model = strided(format_)
    images = images_for(model)
    expected = model(images).numpy()
    with safe_convolutions(model) as changed:
        assert changed == (2 if keras.backend.backend() == "tensorflow" else 0)
        np.testing.assert_allclose(model(images).numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(images).numpy(), expected)
    assert not any("convolution_op" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("seed", range(6))
def test_residual_networks_of_odd_widths_train(seed):
    """Without the work-around some of these end the process: 'double free or corruption'."""
    generator = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(int(generator.integers(4, 70)), 3, padding="same")(image)
    for width in generator.integers(4, 70, 3).tolist():
        shortcut = layers.Conv2D(width, 1, strides=2, name=f"shortcut{x.shape[1]}")(x)
        x = layers.Conv2D(width, 3, strides=2, padding="same")(x)
        x = layers.ReLU()(layers.Add()([layers.BatchNormalization()(x), shortcut]))
    model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    split = Split(generator.random((103, 32, 32, 3)).astype("float32"), generator.integers(0, 10, 103))
    record = train(
        model,
        Dataset("noise", split, split, split, 10),
        TrainingSettings(batch_size=16),
        epochs=2,
        learning_rate=1e-3,
        seed=seed,
    )
    assert np.isfinite(record.losses).all()


def on_one_thread():
    """Train a pruned network with a strided 1x1 convolution, in a process of its own."""
    model = made("residual")
    apply_plan(model, uneven_plan(model))
    split = Split(images_for(model, 16), np.arange(16) % 5)
    data = Dataset("noise", split, split, split, 5)
    train(model, data, TrainingSettings(batch_size=4), epochs=20, learning_rate=1e-3, seed=0)


@pytest.mark.slow
def test_with_one_thread_it_trains_too():
    """Without the work-around that ends the process each time."""
    done = subprocess.run(
        [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r})['on_one_thread']()"],
        env={**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
