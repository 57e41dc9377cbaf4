"""Pruned by a callback while `fit` runs, and under a distribution strategy: training goes on as it would anew."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.planning import make_plan
from autoprune.surgery import Surgeon, apply_plan

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strategies of TensorFlow")

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(8, 6, 6, 3)).astype("float32")
TARGETS = GENERATOR.normal(size=(8, 2)).astype("float32")


def made(optimizer=None):
    keras.utils.set_random_seed(1)
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    convolution = layers.Conv2D(8, 3, activation="relu", name="convolution")
    model = keras.Sequential([keras.Input((6, 6, 3)), convolution, layers.Flatten(), layers.Dense(2)])
    model.compile(optimizer, "mse", jit_compile=keras.backend.backend() == "jax")
    return model


def pruned(model):
    return apply_plan(model, make_plan(model, 0.5, multiple_of=1))


def fit(model, *callbacks, epochs=1, part=slice(None)):
    settings = {"batch_size": 4, "epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
    return model.fit(IMAGES[part], TARGETS[part], **settings)


class Prune(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.report = pruned(self.model)


class PruneAfterBatch(keras.callbacks.Callback):
    """At a moment when JAX keeps the weights elsewhere than in the variables."""

    done = False

    def on_train_batch_end(self, batch, logs=None):
        if not self.done:
            self.done = True
            pruned(self.model)


FIRST, SECOND, ALL = slice(4), slice(4, 8), slice(8)


@pytest.mark.parametrize(
    ("callback", "before", "after"), [(Prune, ALL, (ALL,)), (PruneAfterBatch, FIRST, (SECOND, ALL))]
)
def test_pruned_by_a_callback_as_between_two_fits(callback, before, after):
    expected, model = made(), made()
    fit(expected, part=before)
    pruned(expected)
    for part in after:
        fit(expected, part=part)
    fit(model, callback(), epochs=2)
    assert tuple(model.layers[0].kernel.shape) == (3, 3, 3, 4)
    for weight, wanted in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=1e-6)


def test_optimiser_that_starts_anew_in_a_callback():
    model, prune = made(keras.optimizers.Adafactor(0.01)), Prune()
    history = fit(model, prune, epochs=2)
    assert prune.report.optimizer == "reset"
    assert model.optimizer.built
    assert np.isfinite(history.history["loss"]).all()


@on_tensorflow
@pytest.mark.parametrize(("optimizer", "becomes"), [(None, "sliced"), ("adafactor", "reset")])
def test_variables_stay_in_their_strategy(optimizer, becomes):
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = made(optimizer)
    fit(model)
    before = model.get_weights()
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    kinds = [type(variable.value) for variable in model.variables]
    plan = make_plan(model, 0.5, multiple_of=1)
    with surgeon.pruning(plan, snapshot) as report:
        assert report.optimizer == becomes
        assert [type(variable.value) for variable in model.variables] == kinds
        fit(model)
    for weight, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, wanted)
    fit(model)
