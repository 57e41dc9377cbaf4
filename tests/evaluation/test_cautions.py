"""What is said against a result, before the first compilation where it can be known then."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import from_arrays
from autoprune.data.splits import Split
from autoprune.errors import DataError
from autoprune.evaluation.cautions import chance_caution, data_cautions, gap_caution
from autoprune.pipeline.session import open_session
from autoprune.reporting.outcome import cautions
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings import SearchSettings
from autoprune.tasks import CLASSIFICATION

generator = np.random.default_rng(0)


def classifier(classes=4):
    image = keras.Input((4, 4, 1))
    x = layers.Flatten()(layers.Conv2D(16, 3)(image))
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x), name="net")


def data(train=800, test=200, classes=4, factor=1.0, offset=0.0, labels=None):
    """Random images, with every class in turn; those of the test split on another scale, if that is asked for."""
    y = np.arange(train) % classes if labels is None else np.resize(labels, train)
    images = generator.random((train + test, 4, 4, 1))
    return from_arrays(images[:train], y, images[train:] * factor + offset, np.arange(test) % classes)


def test_good_data_are_not_cautioned_against():
    assert data_cautions(classifier(), data()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"factor": 2, "offset": -1},
            r"those of test images from -0\.99.* are both on the scale",
        ),
        ({"offset": -0.5}, "are both on the scale that the model was trained with"),
        ({"classes": 3}, "'net' tells 4 classes apart, and 'arrays' has 3"),
        ({"labels": [1, 2, 3]}, r"no training image of 1 of 4 classes \(number 0\). Do the labels begin at 1"),
        ({"labels": [0, 1, 3]}, r"no training image of 1 of 4 classes \(number 2\)"),
        ({"train": 8}, "only 2 reward images: one is 50.0 points. .*data.reward_size"),
        ({"test": 8}, "only 8 test images: one is 12.5 points"),
    ],
)
def test_data_are_cautioned_against(given, message):
    found = [caution for caution in data_cautions(classifier(), data(**given)) if re.search(message, caution)]
    assert len(found) == 1


def test_data_by_which_nothing_can_be_said_are_refused():
    with pytest.raises(
        DataError, match=r"go from 0.* to 0\.99.*, those of test images from .* to 25\d.* different scales"
    ):
        data_cautions(classifier(), data(factor=255))
    with pytest.raises(DataError, match="All 640 training images of 'arrays' are of class 1"):
        data_cautions(classifier(), data(labels=[1]))


def split_of(*counts):
    return Split(np.zeros((sum(counts), 1), "float32"), np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize(
    ("accuracy", "counts", "told"),
    [
        (0.74, (2500, 2500), False),
        (0.74, (1300, 3700), True),  # The most frequent class alone is as good.
        (0.77, (1300, 3700), False),
        (0.505, (2500, 2500), True),
        (0.53, (2500, 2500), False),
        (0.13, (10,) * 10, True),  # Within the error of a hundred images.
        (0.13, (1000,) * 10, False),
    ],
)
def test_chance_is_the_most_frequent_class_and_the_error_of_the_split(accuracy, counts, told):
    assert bool(chance_caution(accuracy, split_of(*counts), len(counts))) == told


def test_splits_that_disagree_beyond_their_errors_are_told():
    large = SimpleNamespace(reward=range(5000), test=range(5000), task=CLASSIFICATION)
    small = SimpleNamespace(reward=range(100), test=range(100), task=CLASSIFICATION)
    (told,) = gap_caution("The dense model", 0.97, 0.91, large)
    assert "97.0% of the reward split and on 91.0% of the test split" in told
    assert "trained on images of the reward split" in told
    assert gap_caution("The dense model", 0.97, 0.91, small) == []
    assert gap_caution("The dense model", 0.97, 0.965, large) == []


def test_what_the_search_came_to_is_cautioned_against_with_what_was_known_before():
    splits = {name: split_of(2500, 2500) for name in ("train", "reward", "test")}
    dense = SimpleNamespace(reward_accuracy=0.9, test_accuracy=0.897)
    kept = SimpleNamespace(reward_accuracy=0.7, test_accuracy=0.7)
    found = cautions(
        [dense, kept], kept, SimpleNamespace(classes=2, task=CLASSIFICATION, **splits), ["The data are small."]
    )
    assert found[0] == "The data are small."
    assert len(found) == 2
    assert "lost 19.7 points" in found[1]


class NotYet(Exception):
    """The compiler was asked."""


class Compiler:
    """Stands where nothing shall be compiled before the bad news is told."""

    def submit(self, model):
        raise NotYet


def test_bad_news_comes_before_the_first_compilation(tmp_path, messages):
    folder, settings = RunFolder.make(tmp_path), SearchSettings()
    with (
        pytest.raises(DataError, match="different scales"),
        open_session(classifier(), data(factor=255), settings, folder, Compiler()),
    ):
        pass
    untrained = classifier()
    untrained.layers[-1].kernel.assign(keras.ops.zeros_like(untrained.layers[-1].kernel))
    with pytest.raises(NotYet), open_session(untrained, data(test=50), settings, folder, Compiler()):
        pass
    assert "there is nothing to preserve" in messages()
    assert "only 50 test images" in messages()
