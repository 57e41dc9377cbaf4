"""Surgery frees what it removes, and pruning again and again leaves nothing behind."""

import dataclasses
import gc
import weakref

import keras
import numpy as np
import pytest

from autoprune.models import keras_internals
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon, apply_plan
from helpers.branching import made_branching
from helpers.sharing import tie
from helpers.topologies import fitted, images_for, made


def storages_of(model):
    return [keras_internals.storage(variable) for variable in model.weights]


def test_old_storage_is_freed_even_after_predict():
    """A compiled predict function holds the old variables: surgery drops it."""
    model = made("residual")
    model.predict(images_for(model), verbose=0)
    old = [weakref.ref(stored) for stored in storages_of(model)]
    report = apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    gc.collect()
    freed = sum(reference() is None for reference in old)
    assert freed == len(report.changes)
    assert model.predict(images_for(model), verbose=0).shape == (3, 5)


# Looking at every object there is touches deprecated ones of other libraries.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.slow
def test_pruning_many_times_leaves_nothing_behind():
    model = made("residual")
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    plan = make_plan(model, 0.5, multiple_of=1)
    kind = type(keras_internals.storage(model.weights[0]))
    images = images_for(model)
    expected = keras.ops.convert_to_numpy(model(images))

    def alive():
        gc.collect()
        return sum(isinstance(thing, kind) for thing in gc.get_objects())

    counts = []
    for number in range(50):
        with surgeon.pruning(plan, snapshot):
            model(images)
        if number in (0, 49):
            counts.append(alive())
    assert counts[0] == counts[1]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(images)), expected)


# Looking at every object there is touches deprecated ones of other libraries.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.slow
def test_dropping_branches_many_times_leaves_nothing_behind():
    """Random branches and channels each time; what was put back is compared to the bit, and objects are counted."""
    model = made_branching("inception")
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    images, config = images_for(model), model.get_config()
    expected = keras.ops.convert_to_numpy(model(images))
    generator, counts = np.random.default_rng(0), []
    names = [branch.name for branch in surgeon.branches]
    for number in range(90):
        plan = make_plan(model, float(generator.uniform(0.3, 1)), importance="random", multiple_of=1, seed=number)
        # One path of each of two modules stays at least.
        places = generator.choice([0, 1, 2], 2)
        dropped = tuple(
            name for name in names if int(name[-2]) != places[int(name[5]) - 1] and generator.random() < 0.7
        )
        with surgeon.pruning(dataclasses.replace(plan, dropped=dropped), snapshot) as report:
            assert report.dropped == dropped
            model(images)
        if number in (29, 89):
            gc.collect()
            counts.append(len(gc.get_objects()))
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(images)), expected)
    assert model.get_config() == config
    # Less than one object for each round: nothing of a model, which has thousands.
    assert counts[1] - counts[0] < 60


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_snapshot_restores_what_training_changed(name):
    """More than once: on JAX a training step takes the arrays that it is given for its results."""
    model = made(name)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    for keep in (0.5, 1.0, 0.5):
        surgeon.apply(make_plan(model, keep, multiple_of=1))
        model.compile("adam", "mse", jit_compile=keras.backend.backend() == "jax")
        fitted(model, images_for(model), np.zeros((3, 5)), epochs=2)
        surgeon.restore(snapshot)
        for weight, value in zip(model.weights, before, strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)


def test_optimiser_state_is_sliced_as_the_variables_are():
    model = made("residual")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", jit_compile=False)
    fitted(model, images_for(model), np.zeros((3, 5)))
    plan = make_plan(model, 0.5, multiple_of=1)
    index = next(i for i, v in enumerate(model.trainable_variables) if v.path == "inner1/kernel")
    momentum = keras.ops.convert_to_numpy(model.optimizer.momentums[index].value)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    surgeon.apply(plan)
    sliced = keras.ops.convert_to_numpy(model.optimizer.momentums[index].value)
    expected = momentum[:, :, plan.kept["stem"]][..., plan.kept["inner1"]]
    np.testing.assert_array_equal(sliced, expected)
    surgeon.restore(snapshot)
    restored = keras.ops.convert_to_numpy(model.optimizer.momentums[index].value)
    np.testing.assert_array_equal(restored, momentum)


def test_optimiser_with_factored_state_starts_anew():
    model = made("plain")
    model.compile(keras.optimizers.Adafactor(0.01), "mse", jit_compile=False)
    fitted(model, images_for(model), np.zeros((3, 5)))
    report = apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert report.optimizer == "reset"
    fitted(model, images_for(model), np.zeros((3, 5)))


def test_tied_variables_stay_tied():
    """Two layers that hold one kernel still hold one kernel, half as wide."""
    image = keras.Input((6, 6, 2))
    first = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="first")
    second = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="second")
    a, b = first(image), second(image)
    tie(second, first)
    x = keras.layers.Add()([a, b])
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert first.kernel is second.kernel
    assert (first.filters, second.filters) == (2, 2)
    assert model(np.zeros((1, 6, 6, 2), "float32")).shape == (1, 3)
