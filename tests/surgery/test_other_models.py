"""Other models over layers of the pruned one: cut with it where they can be, named where they are lost."""

import logging

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.planning import make_plan
from autoprune.surgery import Surgeon, apply_plan

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


def made():
    image = keras.Input((8, 8, 3))
    middle = layers.Conv2D(8, 3, activation="relu", name="middle")(image)
    last = layers.Conv2D(8, 3, name="last")(middle)
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(last)))


def test_feature_extractors_are_cut_and_put_back():
    model = made()
    middle = model.get_layer("middle").output
    features = keras.Model(model.input, ops.sqrt(layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(middle))))
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    with surgeon.pruning(make_plan(model, 0.5, multiple_of=1), snapshot) as report:
        assert report.lost_elsewhere == ()
        assert features.output_shape == (None, 4)
        assert tuple(features(IMAGES).shape) == (2, 4)
    assert features.output_shape == (None, 8)
    assert tuple(features(IMAGES).shape) == (2, 8)


@pytest.mark.parametrize("nested", [False, True])
def test_what_feature_extractors_compiled_before_is_compiled_anew(nested):
    model = made()
    features = keras.Model(model.input, model.get_layer("middle").output)
    if nested:
        image = keras.Input((8, 8, 3))
        features = keras.Model(image, features(image))
    before = features.predict(IMAGES, verbose=0)
    plan = make_plan(model, 0.5, multiple_of=1)
    apply_plan(model, plan)
    np.testing.assert_array_equal(features.predict(IMAGES, verbose=0), before[..., plan.kept["middle"]])


def test_models_that_are_lost_are_named(caplog):
    model = made()
    middle = model.get_layer("middle").output
    keras.Model(model.input, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(middle)))
    whole = keras.Input((8, 8, 8))
    keras.Model(whole, model.get_layer("last")(whole))
    with caplog.at_level(logging.WARNING):
        report = apply_plan(model, make_plan(model, {"middle": 0.5}, multiple_of=1))
    assert set(report.lost_elsewhere) == {"head", "last"}
    assert "no longer fit at: last, head" in caplog.text
    assert tuple(model(IMAGES).shape) == (2, 2)
