"""The examples in docstrings say what happens."""

import doctest
import importlib
import inspect

import keras
import numpy as np
import pytest
from keras import layers

import autoprune
from autoprune import data

EXAMPLES = {name: getattr(autoprune, name) for name in autoprune.__all__}
EXAMPLES |= {name: getattr(data, name) for name in data.__all__}
# That of the class for layer kinds is written out in tests/layers/test_own_layers.py: what it registers stays.
EXAMPLES = {name: thing for name, thing in EXAMPLES.items() if inspect.isfunction(thing) and ">>>" in thing.__doc__}


def small_model():
    """16 channels, 32 channels, a block around a sum, five scores."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    first = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(image)
    block = layers.Conv2D(16, 3, padding="same", name="block")(first)
    summed = layers.Add(name="sum")([block, first])
    second = layers.Conv2D(32, 1, activation="relu", name="second")(summed)
    scores = layers.Dense(5, activation="softmax", name="scores")(layers.GlobalAveragePooling2D()(second))
    return keras.Model(image, scores)


def test_the_door_has_examples():
    assert {"find_groups", "find_branches", "make_plan", "apply_plan", "load_plan", "measure_cost"} <= EXAMPLES.keys()


@pytest.mark.compiler
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_happens(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = vars(importlib.import_module(EXAMPLES[name].__module__))
    known = {**home, "autoprune": autoprune, "keras": keras, "np": np, "model": small_model()}
    example = doctest.DocTestParser().get_doctest(EXAMPLES[name].__doc__, known, name, None, None)
    told = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert not told, "".join(told)
    assert example.examples
