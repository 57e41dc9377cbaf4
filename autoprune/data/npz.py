"""A user's own arrays in a NumPy `.npz` file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from autoprune.data.splits import DATASETS, Labelled, RawData, as_images, as_labels, columns_of, fifth_aside
from autoprune.errors import DataError
from autoprune.settings import DataSettings

# Whatever NumPy, zipfile and zlib raise over a file that is damaged or something else.
_CORRUPT = (OSError, ValueError, EOFError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error)
_EXPECTED = (
    "Expected arrays x_train, y_train, x_test, y_test, or x and y, of which a fifth becomes the test split. "
    "Images are (n, *input shape) as the model takes them, labels (n,) class numbers or booleans, or "
    "(n, classes) one-hot."
)


@DATASETS.add("npz")
def load(settings: DataSettings) -> RawData:
    """Read the arrays; without a test split of its own, a fifth is set aside, the same whatever `data.seed`.

    Raises:
        DataError: the file is missing or corrupt, or holds other arrays.
    """
    if not settings.path:
        raise DataError("data=npz needs data.path=FILE.npz. " + _EXPECTED)
    arrays = _read(Path(settings.path))
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        train = Labelled(as_images(arrays["x_train"]), as_labels(arrays["y_train"]))
        test = Labelled(as_images(arrays["x_test"]), as_labels(arrays["y_test"]))
        return RawData(train, test, classes=columns_of(arrays["y_train"], arrays["y_test"]))
    if {"x", "y"} <= arrays.keys():
        images, labels = as_images(arrays["x"]), as_labels(arrays["y"])
        if len(images) != len(labels):
            raise DataError(f"'{settings.path}' holds {len(images)} images but {len(labels)} labels.")
        if len(images) < 5:
            raise DataError(f"'{settings.path}' holds {len(images)} images: too few to set a test split aside.")
        train, test = (Labelled(images[rows], labels[rows]) for rows in fifth_aside(len(images)))
        return RawData(train, test, classes=columns_of(arrays["y"]))
    raise DataError(f"'{settings.path}' holds the arrays {sorted(arrays) or 'none'}. {_EXPECTED}")


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.exists() and not zipfile.is_zipfile(path):
        raise DataError(f"'{path}' is not an .npz archive: it is truncated or of another format.")
    try:
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise DataError(f"There is no file '{path}'. Name an .npz file with data.path=FILE.npz.") from error
    except _CORRUPT as error:
        raise DataError(f"'{path}' is not an .npz file of plain arrays: {error}") from error
