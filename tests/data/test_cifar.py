"""CIFAR: the binary version of either, and Keras's loaders."""

import keras
import numpy as np
import pytest

from autoprune.data import load_data
from autoprune.errors import DataError
from autoprune.settings import DataSettings

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def write_binary(path, images, *labels):
    """The documented format: label bytes, then 1,024 bytes of red, of green, of blue, row by row."""
    records = [
        bytes([*some_labels]) + image[..., 0].tobytes() + image[..., 1].tobytes() + image[..., 2].tobytes()
        for image, *some_labels in zip(images, *labels, strict=True)
    ]
    path.write_bytes(b"".join(records))


def some_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*BATCHES, "test_batch.bin"]):
        write_binary(folder / name, some_images(10, number), np.roll(np.arange(10), number))
    return folder


@pytest.mark.parametrize("above", [False, True])
def test_cifar10_files(cifar10, above):
    data = load_data(DataSettings("cifar10", dir=str(cifar10.parent if above else cifar10), reward_size=10))
    assert (len(data.train), len(data.reward), len(data.test), data.classes) == (40, 10, 10, 10)
    np.testing.assert_array_equal(data.test.images, (some_images(10, 5) / np.float32(255)).astype("float32"))
    np.testing.assert_array_equal(data.test.labels, np.roll(np.arange(10), 5))
    known = {
        image.tobytes(): label
        for number in range(5)
        for image, label in zip(
            (some_images(10, number) / np.float32(255)).astype("float32"), np.roll(np.arange(10), number), strict=True
        )
    }
    for split in (data.train, data.reward):
        assert [known[image.tobytes()] for image in split.images] == split.labels.tolist()


def test_cifar100_files_have_a_coarse_and_a_fine_label(tmp_path):
    write_binary(tmp_path / "train.bin", some_images(20), np.arange(20), np.arange(20) * 5)
    write_binary(tmp_path / "test.bin", some_images(5, 1), np.arange(5), np.arange(5) + 90)
    data = load_data(DataSettings("cifar100", dir=str(tmp_path), reward_size=4))
    assert data.classes == 100
    np.testing.assert_array_equal(data.test.labels, [90, 91, 92, 93, 94])
    assert sorted([*data.train.labels, *data.reward.labels]) == list(range(0, 100, 5))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "There is no file '.*data_batch_3.bin'. data.dir must hold the binary version"),
        ("truncated", "'.*data_batch_3.bin' should hold records of 3073 bytes, but has 30000 bytes"),
        ("empty", "'.*data_batch_3.bin' should hold records of 3073 bytes, but has 0 bytes"),
        ("label", "'.*data_batch_3.bin' gives image 2 the class 11; the classes are 0 to 9"),
    ],
)
def test_damaged_files_are_named(cifar10, damage, message):
    path = cifar10 / "data_batch_3.bin"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        label = content[: 2 * 3073] + b"\x0b" + content[2 * 3073 + 1 :]
        path.write_bytes({"truncated": content[:30000], "empty": b"", "label": label}[damage])
    with pytest.raises(DataError, match=message):
        load_data(DataSettings("cifar10", dir=str(cifar10)))


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_keras_loads_what_is_not_in_a_folder(monkeypatch, name, classes):
    labels = np.arange(30).reshape(-1, 1).astype(np.uint8) % classes
    answer = ((some_images(30), labels), (some_images(6, 1), labels[:6]))
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: answer)
    data = load_data(DataSettings(name, reward_size=10))
    assert (len(data.train), len(data.reward), len(data.test), data.classes) == (20, 10, 6, classes)
    assert data.train.images.max() == 1
    np.testing.assert_array_equal(data.test.labels, labels[:6, 0])


def test_a_failed_download_says_what_to_do(monkeypatch):
    def fail():
        raise OSError("no route to host")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fail)
    with pytest.raises(DataError, match="could not be downloaded .no route to host.*data.dir=FOLDER/cifar-10-batches"):
        load_data(DataSettings("cifar10"))
