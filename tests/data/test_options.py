"""The options for data and models, as they come from the command line."""

import pytest
from hydra import compose, initialize_config_module

from autoprune.options import check_overrides, config_groups
from autoprune.settings import DataSettings, ModelSettings, SearchSettings, from_config


def composed(*options):
    assert not check_overrides("search", options)
    with initialize_config_module("autoprune.conf", version_base="1.3"):
        return from_config(compose("search", overrides=list(options)), SearchSettings)


def test_an_application_by_its_name():
    settings = composed("model=application", "model.name=MobileNetV2", "model.input_shape=[96,96,3]", "model.classes=7")
    expected = ModelSettings("MobileNetV2", input_shape=[96, 96, 3], classes=7, weights="imagenet")
    assert settings.model == expected
    assert composed("model=application", "model.weights=null").model == ModelSettings("ResNet50")
    assert composed("model=application", "model.weights=my.weights.h5").model.weights == "my.weights.h5"


def test_data_sets_with_their_options():
    settings = composed("data=image_folder", "data.dir=pictures", "data.image_size=[64,48]", "data.preprocessing=caffe")
    assert settings.data == DataSettings(
        "image_folder", dir="pictures", image_size=[64, 48], preprocessing="caffe", reward_size=0.2
    )
    settings = composed("data=tfds", "data.dataset=imagenet2012", "data.test_split=validation", "data.dir=x")
    assert settings.data == DataSettings(
        "tfds", dir="x", dataset="imagenet2012", test_split="validation", reward_size=5000
    )


@pytest.mark.parametrize("name", config_groups()["data"])
def test_every_data_set_can_be_fitted_to_a_model(name):
    settings = composed(f"data={name}", "data.image_size=[32,32]", "data.crop_to_aspect_ratio=true")
    assert (settings.data.image_size, settings.data.crop_to_aspect_ratio) == ([32, 32], True)
    assert settings.data.preprocessing == "auto"
