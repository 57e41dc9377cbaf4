"""`data.classes`: splits of some classes alone, of a network that keeps its outputs."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import LazyImages, from_arrays, load_data
from autoprune.errors import DataError, SettingsError
from autoprune.evaluation.cautions import data_cautions
from autoprune.settings import DataSettings, TaskSettings
from helpers.image_files import write_digits


def of_classes(split, classes):
    return split.part(np.flatnonzero(np.isin(split.labels, classes)))


def test_all_splits_hold_all_images_of_these_classes_and_no_others():
    whole, some = (
        load_data(DataSettings(reward_size=0.25)),
        load_data(DataSettings(reward_size=0.25, classes=[7, 0, 3])),
    )
    assert (some.classes, some.chosen, whole.chosen) == (10, (0, 3, 7), None)
    for name in ("train", "reward", "test"):
        assert set(np.unique(getattr(some, name).labels)) == {0, 3, 7}
    expected = of_classes(whole.test, [0, 3, 7])
    np.testing.assert_array_equal(some.test.images, expected.images)
    np.testing.assert_array_equal(some.test.labels, expected.labels)
    count = sum(len(of_classes(split, [0, 3, 7])) for split in (whole.train, whole.reward))
    assert len(some.train) + len(some.reward) == count
    assert len(some.reward) == round(count / 4)
    assert some.fingerprint() != whole.fingerprint()


def test_all_classes_by_name_are_the_same_as_none():
    whole, named = load_data(DataSettings()), load_data(DataSettings(classes=list(range(10))))
    assert named.fingerprint() == whole.fingerprint()


def test_images_that_are_read_as_needed(tmp_path):
    write_digits(tmp_path / "train", range(200))
    write_digits(tmp_path / "test", range(200, 260))
    options = {"dir": str(tmp_path), "image_size": [8, 8, 1], "reward_size": 0.2}
    whole = load_data(DataSettings("image_folder", **options))
    some = load_data(DataSettings("image_folder", classes=[1, 2], train_size=10, **options))
    assert isinstance(some.train.images, LazyImages)
    assert (len(some.train), some.classes) == (10, 10)
    expected = of_classes(whole.test, [1, 2])
    np.testing.assert_array_equal(some.test.images[:], expected.images[:])
    assert set(some.train.labels) | set(some.reward.labels) == {1, 2}


def some_arrays(labels):
    images = np.random.default_rng(0).random((len(labels), 4, 4, 1))
    return images, labels, images, labels


def test_no_caution_is_given_against_classes_that_were_left_out():
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, layers.Dense(4, activation="softmax")(layers.Flatten()(image)))
    labels = np.arange(1200) % 4
    assert data_cautions(model, from_arrays(*some_arrays(labels), classes=[1, 3])) == []
    with pytest.raises(DataError, match="All 240 training images of 'arrays' are of class 1"):
        data_cautions(model, from_arrays(*some_arrays(labels), classes=[1]))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.arange(20) % 4, [0, 4], r"'arrays' has 4 classes, numbered from 0. Received: data.classes=\[0, 4\]"),
        (np.arange(20) % 2 * 3, [0, 2], r"'arrays' has no training image of the classes \[2\]"),
    ],
)
def test_classes_without_images_are_refused(labels, classes, message):
    with pytest.raises(DataError, match=message):
        from_arrays(*some_arrays(labels), classes=classes)


def test_a_class_without_test_images_is_refused():
    images, labels = np.ones((20, 4, 4, 1)), np.arange(20) % 4
    with pytest.raises(DataError, match=r"has no test image of the classes \[3\]"):
        from_arrays(images, labels, images, labels % 3, classes=[0, 3])


def test_other_tasks_have_no_classes_to_choose_among():
    images, values = np.ones((20, 4, 4, 1)), np.arange(20.0)
    with pytest.raises(DataError, match="task=classification. Received: regression"):
        from_arrays(images, values, images, values, task=TaskSettings("regression"), classes=[0])


@pytest.mark.parametrize("classes", [[], [1, 1], [-1, 2]])
def test_impossible_choices_are_refused(classes):
    with pytest.raises(SettingsError, match="data.classes must be different class numbers from 0"):
        DataSettings(classes=classes)
