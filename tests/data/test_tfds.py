"""TensorFlow Datasets, on a small data set that the test prepares: records are read when their images are needed."""

import sys

import numpy as np
import pytest

from autoprune.data import LazyImages, load_data
from autoprune.errors import DataError, SettingsError
from autoprune.settings import DataSettings, ModelSettings
from helpers.image_files import digit_pixels


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(SettingsError, match=r'data=tfds needs tensorflow_datasets.*pip install "\.\[tfds\]"'):
        load_data(DataSettings("tfds", dataset="imagenet2012"))


def test_a_name_is_needed():
    with pytest.raises(DataError, match="needs data.dataset=NAME, such as data.dataset=imagenet2012"):
        load_data(DataSettings("tfds"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 training and 30 validation digits as array_record, the same as tfrecord, and a data set without classes."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pixels, labels = digit_pixels()

    class SomeDigits(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
                "row": np.int64,
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {"train": self._generate_examples(range(60)), "validation": self._generate_examples(range(60, 90))}

        def _generate_examples(self, rows):
            for row in rows:
                yield row, {"image": pixels[row][..., None], "label": labels[row], "row": row}

    class Numbers(SomeDigits):
        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"row": np.int64}))

        def _generate_examples(self, rows):
            for row in rows:
                yield row, {"row": row}

    root = tmp_path_factory.mktemp("tfds")
    for builder, kind in ((SomeDigits, "array_record"), (Numbers, "array_record"), (SomeDigits, "tfrecord")):
        builder(data_dir=root / kind, file_format=kind).download_and_prepare()
    return root


def settings(folder, kind="array_record", **options):
    chosen = {"dataset": "some_digits", "test_split": "validation", "reward_size": 20, "image_size": [8, 8, 1]}
    return DataSettings("tfds", dir=str(folder / kind), **{**chosen, **options})


def test_records_are_images_and_labels(folder):
    data = load_data(settings(folder))
    pixels, labels = digit_pixels()
    assert (data.name, data.classes, data.input_shape) == ("some_digits", 10, (8, 8, 1))
    assert (len(data.train), len(data.reward), len(data.test)) == (40, 20, 30)
    assert isinstance(data.train.images, LazyImages)
    known = {(pixels[row] / np.float32(255)).astype("float32").tobytes(): labels[row] for row in range(90)}
    for _ in range(5):  # from several threads, always the same
        found = [known[image.tobytes()] for split in (data.train, data.reward) for image in split.images[:]]
        assert found == [*data.train.labels, *data.reward.labels]
    assert [known[image.tobytes()] for image in data.test.images[:]] == data.test.labels.tolist()


def test_labels_are_read_once(folder, monkeypatch, tmp_path, caplog):
    def read():
        return [record.args[0] for record in caplog.records if "reading the labels" in record.msg]

    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    caplog.set_level("INFO")
    first, again = load_data(settings(folder)), load_data(settings(folder))
    assert read() == [60, 30]
    np.testing.assert_array_equal(first.train.labels, again.train.labels)
    for kept in tmp_path.glob("labels/*.npy"):
        kept.write_bytes(kept.read_bytes()[:150])
    np.testing.assert_array_equal(first.test.labels, load_data(settings(folder)).test.labels)
    assert read() == [60, 30, 60, 30]


def test_splits_sizes_and_preprocessing_as_everywhere(folder):
    data = load_data(
        settings(folder, image_size=None, train_size=10), ModelSettings("ResNet50", input_shape=[32, 32, 3])
    )
    assert data.input_shape == (32, 32, 3)
    assert data.train.images[[4, 2]].shape == (2, 32, 32, 3)
    prints = [load_data(settings(folder, **some)).fingerprint() for some in ({}, {}, {"seed": 1})]
    assert prints[0] == prints[1] != prints[2]
    parts = load_data(settings(folder, train_split="train[:30]", test_split="train[30:]", reward_size=5))
    assert (len(parts.train), len(parts.reward), len(parts.test)) == (25, 5, 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_split": "test"}, "cannot give the split 'test' of 'some_digits'.*Unknown split 'test'"),
        ({"dataset": "some_digit"}, "cannot give the split 'train' of 'some_digit'.*not found"),
        ({"kind": "tfrecord"}, "(?s)not supported.*has to be prepared again, in another data.dir"),
        ({"dataset": "numbers"}, "'numbers/1.0.0' is not a data set of images and classes. Its records hold row"),
    ],
)
def test_what_cannot_be_used_is_refused(folder, options, message):
    with pytest.raises(DataError, match=message):
        load_data(settings(folder, **options))
