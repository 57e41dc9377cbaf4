"""Models of classes of their own: saved by what they are after surgery, not by what their constructors build."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.models import keras_internals
from autoprune.models.config import rebuild
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon, apply_plan
from helpers.plans import uneven_plan

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


class Backbone(keras.Model):
    """As keras_hub and many others write them; registered nowhere, so that a file that names it cannot be read."""

    def __init__(self, width=8, **kwargs):
        image = keras.Input((8, 8, 3))
        x = layers.Conv2D(width, 3, activation="relu")(image)
        super().__init__(inputs=image, outputs=layers.Conv2D(width, 3)(x), **kwargs)
        self.width = width
        self.temperature = self.add_weight(shape=(), trainable=False, name="temperature")
        self.steps = 0

    def train_step(self, *args):
        self.steps += 1
        return super().train_step(*args)

    def get_config(self):
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Classifier(keras.Model):
    """Has no `get_config`: Keras makes one of the constructor's arguments."""

    def __init__(self, width=8, **kwargs):
        backbone = Backbone(width, name="backbone")
        x = layers.GlobalAveragePooling2D()(backbone.output)
        super().__init__(backbone.input, layers.Dense(5)(x), **kwargs)


class Stack(keras.Sequential):
    """Keras gives its constructor nothing but a name, and then adds the layers again."""

    def __init__(self, width=8, **kwargs):
        convolutions = [layers.Conv2D(width, 3, activation="relu"), layers.Conv2D(width, 3, activation="relu")]
        super().__init__([keras.Input((8, 8, 3)), *convolutions, layers.GlobalAveragePooling2D()], **kwargs)
        self.add(layers.Dense(5))


class Pool(keras.Model):
    """Holds nothing that is cut, but is built for a number of channels."""

    def __init__(self, channels, **kwargs):
        features = keras.Input((4, 4, channels))
        super().__init__(features, layers.GlobalAveragePooling2D()(features), **kwargs)
        self.channels = channels

    def get_config(self):
        return {"channels": self.channels, "name": self.name}


def nested():
    image = keras.Input((8, 8, 3))
    x = Pool(8, name="pool")(Backbone(name="body")(image))
    return keras.Model(image, layers.Dense(5)(layers.Dense(6, activation="relu", name="hidden")(x)))


MODELS = {"backbone": Backbone, "classifier": Classifier, "stack": Stack, "nested": nested}
# Every model of a class of its own in them.
PATHS = {
    "backbone": {"backbone"},
    "classifier": {"classifier"},
    "stack": {"stack"},
    "nested": {"body", "pool"},
}


def made(name):
    keras.utils.set_random_seed(1)
    return MODELS[name]() if name == "nested" else MODELS[name](name=name)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_loads_without_the_class(name, tmp_path):
    model = made(name)
    kinds = {id(found): type(found) for found in (model, *model.layers)}
    report = apply_plan(model, uneven_plan(model))
    assert set(report.saved_as_plain) == PATHS[name]
    assert all(isinstance(found, kinds[id(found)]) for found in (model, *model.layers))
    expected = keras.ops.convert_to_numpy(model(IMAGES))
    model.save(tmp_path / "pruned.keras")
    for copy in (
        keras.saving.load_model(tmp_path / "pruned.keras"),
        keras.models.clone_model(model),
        rebuild(keras_internals.graph_config(model), []),
    ):
        assert [tuple(w.shape) for w in copy.weights] == [tuple(v.shape) for v in graph_weights(model)]
        assert type(copy).__module__.startswith("keras.")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded(IMAGES)), expected)


def graph_weights(model):
    return [weight for weight in model.weights if not weight.path.endswith("temperature")]


@pytest.mark.parametrize("name", MODELS)
def test_class_is_put_back(name):
    model = made(name)
    kinds = [type(found) for found in (model, *model.layers)]
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    with surgeon.pruning(uneven_plan(model), snapshot) as report:
        assert report.saved_as_plain
    assert [type(found) for found in (model, *model.layers)] == kinds


def test_own_training_step_goes_on():
    model = made("backbone")
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(IMAGES, np.zeros(model(IMAGES).shape, "float32"), verbose=0)
    assert model.steps == 1


def test_models_that_did_not_change_keep_their_class():
    model = made("nested")
    body, pool = model.get_layer("body"), model.get_layer("pool")
    report = apply_plan(model, make_plan(model, {"hidden": 0.5}, multiple_of=1))
    assert report.changes
    assert report.saved_as_plain == ()
    assert type(body) is Backbone
    assert type(pool) is Pool


@keras.saving.register_keras_serializable("tests")
class Noted(keras.Model):
    """Passes on what it is given, and adds to the config of its graph."""

    def __init__(self, *args, note="", **kwargs):
        super().__init__(*args, **kwargs)
        self.note = note

    def get_config(self):
        return {**super().get_config(), "note": self.note}


def test_class_that_saves_its_graph_is_saved_as_itself(tmp_path):
    plain = Stack()
    model = Noted(plain.inputs[0], plain.outputs[0], note="mine")
    report = apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert report.saved_as_plain == ()
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    assert type(loaded) is Noted
    assert loaded.note == "mine"
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(IMAGES)) for m in (loaded, model)))


def test_fingerprint_is_that_of_the_graph():
    """A constructor's arguments need not say all; the class itself does not matter."""
    model = made("classifier")
    assert architecture_fingerprint(model) == architecture_fingerprint(keras.Model(model.input, model.output))
    before = architecture_fingerprint(model)
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert architecture_fingerprint(model) != before
