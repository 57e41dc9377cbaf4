"""A folder of image files, one sub-folder per class. Files are read when their images are needed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from autoprune.data.splits import DATASETS, Labelled, RawData, fifth_aside
from autoprune.data.streaming import DECODING_THREADS
from autoprune.errors import DataError
from autoprune.settings import DataSettings

# As `keras.utils.image_dataset_from_directory` has it.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_TEST_FOLDERS = ("test", "val", "validation")
_EXPECTED = (
    "Expected train/CLASS/image.jpg and test/CLASS/image.jpg (or val/ in the place of test/), or CLASS/image.jpg, of "
    "which a fifth becomes the test split."
)


@dataclass(frozen=True)
class _File:
    """An image file.

    Attributes:
        name: relative to the folder, with slashes.
        label: class number.
        size: bytes.
    """

    name: str
    label: int
    size: int


class FileSource:
    """Image files by number.

    Args:
        folder: that their names are relative to.
        names: paths of the image files.
        sizes: bytes of each.

    Attributes:
        identity: hash of the names and sizes of the files.
    """

    threads = DECODING_THREADS

    def __init__(self, folder: Path, names: Sequence[str], sizes: Sequence[int]) -> None:
        self._folder = folder
        self._names = names
        digest = hashlib.sha256()
        for name, size in zip(names, sizes, strict=True):
            digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        self.identity = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def pixels(self, number: int) -> np.ndarray:
        """(height, width, 1 or 3) of one image."""
        path = self._folder / self._names[number]
        return decode_image(path, f"'{path}'")


def decode_image(file: Path | BinaryIO, name: str) -> np.ndarray:
    """Decode an image; of several frames the first.

    Args:
        file: path, or an open file.
        name: for messages.

    Returns:
        (height, width, 1) of a grey image, else (height, width, 3), from 0 to 255.

    Raises:
        DataError: there is none, or it is not whole.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I"):  # 16 bits of grey
                return np.asarray(image, np.float32)[..., np.newaxis] / np.float32(257)
            if image.mode in ("1", "L", "LA"):
                return np.asarray(image.convert("L"))[..., np.newaxis]
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise DataError(f"The image {name} cannot be read: {str(error) or type(error).__name__}") from error


@DATASETS.add("image_folder")
def load(settings: DataSettings) -> RawData:
    """Look at the names of the files in `data.dir`; classes are numbered in the order of their names.

    Raises:
        DataError: there is no such folder, a class has no images, a file is empty, or training and test classes differ.
    """
    if not settings.dir:
        raise DataError(f"data=image_folder needs data.dir=FOLDER. {_EXPECTED}")
    folder = Path(settings.dir)
    if not folder.is_dir():
        raise DataError(f"There is no folder '{folder}'. {_EXPECTED}")
    try:
        return _load(folder)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read: {error}") from error


def _load(folder: Path) -> RawData:
    """What the folder holds; of one without a test split a fifth is set aside, the same whatever `data.seed`."""
    present = _subfolders(folder)
    tests = [name for name in _TEST_FOLDERS if name in present]
    if "train" not in present and not tests:
        files = _files(folder)
        if len(files) < 5:
            raise DataError(f"'{folder}' holds {len(files)} images: too few to set a test split aside. {_EXPECTED}")
        parts = ([files[row] for row in rows] for rows in fifth_aside(len(files)))
        train, test = (_label(folder, part) for part in parts)
        return RawData(train, test, classes=len(_classes(folder)))
    if "train" not in present or not tests:
        raise DataError(
            f"'{folder}' has {' and '.join(tests) or 'train'}, but not {'train' if tests else 'test or val'}. "
            + _EXPECTED
        )
    paths = folder / "train", folder / tests[0]
    classes = _classes(paths[0])
    apart = set(classes) ^ set(_classes(paths[1]))
    if apart:
        names = ", ".join(sorted(apart)[:5]) + (f" and {len(apart) - 5} more" if len(apart) > 5 else "")
        raise DataError(
            f"'{paths[0]}' and '{paths[1]}' hold different classes: only one of them has {names}. Each class needs a "
            "folder of the same name in both."
        )
    train, test = (_label(path, _files(path)) for path in paths)
    return RawData(train, test, classes=len(classes))


def _label(folder: Path, files: Sequence[_File]) -> Labelled:
    source = FileSource(folder, [file.name for file in files], [file.size for file in files])
    return Labelled(source, np.array([file.label for file in files], np.int64))


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, in order, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> list[str]:
    """Names of the classes.

    Raises:
        DataError: there are none, or only one.
    """
    classes = _subfolders(folder)
    if len(classes) < 2:
        raise DataError(f"'{folder}' holds {len(classes)} class folders; 2 or more are needed. {_EXPECTED}")
    return classes


def _files(folder: Path) -> list[_File]:
    """The image files of all classes, in the order of classes and names.

    Raises:
        DataError: a class has none, or one is empty.
    """
    found = []
    for label, name in enumerate(_classes(folder)):
        of_class = [_File(f"{name}/{file}", label, size) for file, size in sorted(_images(folder / name))]
        if not of_class:
            raise DataError(
                f"The class folder '{folder / name}' holds no images ({', '.join(SUFFIXES)}). Remove it, or put "
                "some there."
            )
        found += of_class
    empty = next((file for file in found if file.size == 0), None)
    if empty is not None:
        raise DataError(f"The image '{folder / empty.name}' is empty: 0 bytes.")
    return found


def _images(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Names, relative to the folder, and sizes of the image files in it and in folders within."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _images(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(SUFFIXES):
                yield f"{prefix}{entry.name}", entry.stat().st_size
