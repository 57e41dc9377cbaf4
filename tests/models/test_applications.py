"""Networks of `keras.applications` as models: their shapes, their weights, and when they are trained."""

import keras
import numpy as np
import pytest

from autoprune.data import load_data
from autoprune.errors import ModelError, SettingsError, UnknownNameError
from autoprune.evaluation.accuracy import check_fit
from autoprune.models import applications, zoo
from autoprune.models.building import build_model, input_shape_of
from autoprune.settings import DataSettings, ModelSettings, SearchSettings, TrainingSettings
from autoprune.training.base_model import base_model

SHAPE = [32, 32, 3]
DOWNLOAD = "keras.src.utils.file_utils.get_file"


def outputs(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small network with weights of its own, as files: whole and without its classifier."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(3)
    whole = keras.applications.MobileNet(weights=None, input_shape=tuple(SHAPE), classes=10)
    body = keras.applications.MobileNet(weights=None, input_shape=tuple(SHAPE), include_top=False, pooling="avg")
    whole.save_weights(folder / "whole.weights.h5")
    body.save_weights(folder / "body.weights.h5")
    return folder, whole, body


def settings(data=(), **model):
    name = model.pop("name", "MobileNet")
    return SearchSettings(
        model=ModelSettings(name, input_shape=SHAPE, **model),
        data=DataSettings(reward_size=64, **dict(data)),
        training=TrainingSettings(epochs=1),
    )


def test_the_shape_is_the_one_that_keras_builds_for():
    for name in ("MobileNetV2", "EfficientNetV2B1"):
        model = zoo.build(name, None, None)
        assert tuple(model.inputs[0].shape[1:]) == applications.input_shape(name) == input_shape_of(ModelSettings(name))
        assert model.outputs[0].shape[-1] == 1000
    assert applications.input_shape("MobileNetV3Small") == (224, 224, 3)
    assert input_shape_of(ModelSettings()) is None


@pytest.mark.slow
def test_every_shape_is_the_one_that_keras_builds_for():
    for name in ("EfficientNetB0", "EfficientNetB4", "InceptionV3", "NASNetLarge", "ResNet50", "Xception"):
        keras.backend.clear_session()
        model = getattr(keras.applications, name)(weights=None)
        assert tuple(model.inputs[0].shape[1:]) == applications.input_shape(name)


def test_weights_of_a_file_are_used_as_they_are(saved):
    """The whole way of a search: data fitted to the network, the network not trained."""
    folder, whole, _ = saved
    asked = settings(weights=str(folder / "whole.weights.h5"))
    data = load_data(asked.data, asked.model)
    model = base_model(asked, data)
    check_fit(model, data)
    images = data.reward.images[:4]
    assert images.shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(outputs(model, images), outputs(whole, images))


@pytest.mark.slow
def test_new_weights_are_trained_for_the_data():
    asked = settings(data={"train_size": 64})
    data = load_data(asked.data, asked.model)
    told = []
    model = base_model(asked, data, lambda epochs, logs: told.append(epochs))
    assert told[-1] == 1
    assert model.outputs[0].shape[-1] == 10
    again = base_model(asked, data, lambda epochs, logs: told.append(None))
    assert None not in told
    images = data.test.images[:4]
    np.testing.assert_array_equal(outputs(model, images), outputs(again, images))


def test_weights_of_imagenet_with_its_classes_are_used_as_they_are(monkeypatch, tmp_path):
    keras.utils.set_random_seed(4)
    whole = keras.applications.MobileNet(weights=None)
    whole.save_weights(tmp_path / "imagenet.weights.h5")
    monkeypatch.setattr(DOWNLOAD, lambda *_, **__: str(tmp_path / "imagenet.weights.h5"))
    asked = SearchSettings(model=ModelSettings("MobileNet", weights="imagenet", classes=1000))
    data = load_data(asked.data, asked.model)
    model = base_model(asked, data)
    check_fit(model, data)
    images = data.test.images[:1]
    assert images.shape == (1, 224, 224, 3)
    np.testing.assert_array_equal(outputs(model, images), outputs(whole, images))


@pytest.mark.filterwarnings("ignore:`input_shape` is undefined or non-square")
def test_weights_of_imagenet_with_other_classes_get_a_new_classifier(monkeypatch, saved):
    folder, _, body = saved
    monkeypatch.setattr(DOWNLOAD, lambda *_, **__: str(folder / "body.weights.h5"))
    model = build_model(ModelSettings("MobileNet", weights="imagenet"), (32, 32, 3), 7)
    images = np.random.default_rng(0).random((2, 32, 32, 3)).astype("float32")
    classifier = model.get_layer("predictions")
    assert model.outputs[0].shape[-1] == 7
    inner = keras.Model(model.inputs[0], classifier.input)
    np.testing.assert_array_equal(outputs(inner, images), outputs(body, images))


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    def fail(*_, **__):
        raise OSError("URL fetch failure")

    monkeypatch.setattr(DOWNLOAD, fail)
    with pytest.raises(ModelError, match="(?s)MobileNet .*URL fetch failure.*model.weights=FILE.weights.h5"):
        build_model(ModelSettings("MobileNet", weights="imagenet"), None, 1000)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ({"weights": "nowhere.weights.h5"}, ModelError, "There is no file 'nowhere.weights.h5'"),
        ({"weights": "whole.keras"}, ModelError, "is a whole model: choose model=file model.path=whole.keras"),
        ({"name": "resnet20", "weights": "imagenet"}, SettingsError, "for model=application; 'resnet20' is none"),
        ({"width": 0.5}, SettingsError, "model.width is for architectures of the zoo. Received: 0.5"),
        ({"name": "MobileNetV9"}, UnknownNameError, "no model 'MobileNetV9'. Did you mean 'MobileNetV2'"),
    ],
)
def test_what_cannot_be_built_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        build_model(ModelSettings(**{"name": "MobileNet", **model}), (32, 32, 3), 10)


def test_weights_of_another_network_are_refused(saved):
    path = str(saved[0] / "whole.weights.h5")
    with pytest.raises(ModelError, match=r"(?s)number of classes \(model.classes\)"):
        build_model(ModelSettings("MobileNet", weights=path), (32, 32, 3), 11)
    with pytest.raises(ModelError, match="images of .8, 8, 3. and 10 classes could not be built"):
        build_model(ModelSettings("MobileNet"), (8, 8, 3), 10)
