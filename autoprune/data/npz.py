"""A user's own arrays in a NumPy `.npz` file."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autoprune.data.arrays import as_images
from autoprune.data.splits import DATASETS, Labelled, RawData, fifth_aside
from autoprune.errors import CORRUPT_ARCHIVE, DataError
from autoprune.settings import DataSettings

_IMAGES = ("x_train", "x_test")
_EXPECTED = (
    "Expected arrays x_train, y_train, x_test, y_test, or x and y, of which a fifth becomes the test split. "
    "Images are (n, *input shape) as the model takes them, labels (n,) class numbers or booleans, (n, classes) "
    "one-hot, or what the task has for labels; of several outputs y_train.NAME for each."
)


@DATASETS.add("npz")
def load(settings: DataSettings) -> RawData:
    """Read the arrays; without a test split of its own, a fifth is set aside, the same whatever `data.seed`.

    Raises:
        DataError: the file is missing or corrupt, or holds other arrays.
    """
    if not settings.path:
        raise DataError("data=npz needs data.path=FILE.npz. " + _EXPECTED)
    path = Path(settings.path)
    if path.exists() and not zipfile.is_zipfile(path):
        raise DataError(f"'{path}' is not an .npz archive: it is truncated or of another format.")
    try:
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"There is no file '{path}'. Name an .npz file with data.path=FILE.npz.") from error
    except CORRUPT_ARCHIVE as error:
        raise DataError(f"'{path}' is not an .npz file of plain arrays: {error}") from error
    if set(_IMAGES) <= arrays.keys():
        labels = [_labels(arrays, name) for name in ("y_train", "y_test")]
        if all(part is not None for part in labels):
            train, test = (Labelled(as_images(arrays[name]), some) for name, some in zip(_IMAGES, labels, strict=True))
            return RawData(train, test)
    if "x" in arrays and (some := _labels(arrays, "y")) is not None:
        images = as_images(arrays["x"])
        counts = {len(array) for array in keras.tree.flatten(some)}
        if counts != {len(images)}:
            raise DataError(f"'{settings.path}' holds {len(images)} images but {max(counts)} labels.")
        if len(images) < 5:
            raise DataError(f"'{settings.path}' holds {len(images)} images: too few to set a test split aside.")
        train, test = (
            Labelled(images[rows], keras.tree.map_structure(lambda array, rows=rows: array[rows], some))
            for rows in fifth_aside(len(images))
        )
        return RawData(train, test)
    raise DataError(f"'{settings.path}' holds the arrays {sorted(arrays) or 'none'}. {_EXPECTED}")


def _labels(arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """The labels of a split: an array `y_train`, or for several outputs arrays `y_train.NAME`; None without any."""
    if name in arrays:
        return arrays[name]
    return {key.split(".", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{name}.")} or None
