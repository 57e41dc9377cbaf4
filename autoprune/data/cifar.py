"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images, 32x32 in colour (Krizhevsky, 2009)."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import keras
import numpy as np

from autoprune.data.splits import DATASETS, Labelled, RawData
from autoprune.errors import DataError
from autoprune.settings import DataSettings

_SHAPE = (3, 32, 32)


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """One of the two.

    Attributes:
        title: for messages.
        keras_module: name of the module in `keras.datasets` that loads it.
        folder: of the binary version's archive.
        train: files of the training images.
        test: file of the test images.
        labels: bytes before each image, of which the last is the class.
        classes: their number.
    """

    title: str
    keras_module: ModuleType
    folder: str
    train: tuple[str, ...]
    test: str
    labels: int
    classes: int


_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_CIFAR10 = _Variant(
    title="CIFAR-10",
    keras_module=keras.datasets.cifar10,
    folder="cifar-10-batches-bin",
    train=_BATCHES,
    test="test_batch.bin",
    labels=1,
    classes=10,
)
_CIFAR100 = _Variant(
    title="CIFAR-100",
    keras_module=keras.datasets.cifar100,
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    labels=2,
    classes=100,
)


@DATASETS.add("cifar10")
def load_cifar10(settings: DataSettings) -> RawData:
    """Read the binary version in `data.dir`, or let Keras find or download it. Pixels are scaled to 0..1."""
    return _load(settings, _CIFAR10)


@DATASETS.add("cifar100")
def load_cifar100(settings: DataSettings) -> RawData:
    """Likewise, with the 100 fine classes."""
    return _load(settings, _CIFAR100)


def _load(settings: DataSettings, variant: _Variant) -> RawData:
    """Labelled images of one of the two.

    Raises:
        DataError: a file is missing or malformed, or the data set could not be downloaded.
    """
    if settings.dir is None:
        try:
            parts = variant.keras_module.load_data()
        except Exception as error:
            raise DataError(
                f"{variant.title} is not in Keras's cache and could not be downloaded ({error}). Unpack the binary "
                "version of https://www.cs.toronto.edu/~kriz/cifar.html, and name its folder with "
                f"data.dir=FOLDER/{variant.folder}."
            ) from error
    else:
        folder = Path(settings.dir)
        inner = folder / variant.folder
        folder = inner if inner.is_dir() else folder
        parts = []
        for names in (variant.train, (variant.test,)):
            files = [read_binary(folder / name, variant.labels, variant.classes) for name in names]
            images, labels = zip(*files, strict=True)
            parts.append((np.concatenate(images), np.concatenate(labels)))
    train, test = (
        Labelled(images.astype(np.float32) / np.float32(255), labels.ravel().astype(np.int64))
        for images, labels in parts
    )
    return RawData(train, test, white=1.0, classes=variant.classes)


def read_binary(path: Path, labels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read one file of the binary version: for each image its labels, one byte each, and three planes of 32x32 bytes.

    Args:
        path: the file.
        labels: bytes before each image; the last of them is the class.
        classes: number of classes.

    Returns:
        (n, 32, 32, 3) uint8 images and (n,) int64 class numbers.

    Raises:
        DataError: the file is missing or truncated, or has a label that cannot be.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(
            f"There is no file '{path}'. data.dir must hold the binary version of CIFAR ({path.name}, ...); the Python "
            "version is not read."
        ) from error
    record = labels + int(np.prod(_SHAPE))
    if len(content) == 0 or len(content) % record:
        raise DataError(
            f"'{path}' should hold records of {record} bytes, but has {len(content)} bytes: it is not whole."
        )
    rows = content.reshape(-1, record)
    found = rows[:, labels - 1].astype(np.int64)
    if found.max() >= classes:
        number = int(found.argmax())
        raise DataError(
            f"'{path}' gives image {number} the class {found[number]}; the classes are 0 to {classes - 1}. It is "
            "damaged or of another data set."
        )
    return rows[:, labels:].reshape(-1, *_SHAPE).transpose(0, 2, 3, 1), found
