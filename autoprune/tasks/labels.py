"""Class numbers, of what users give as labels."""

import numpy as np

from autoprune.errors import DataError

# For whom labels are none of a classifier's.
_OTHER_TASKS = (
    "For other labels than one class of each image say what the model is for: task=segmentation (masks), "
    "task=multi_label (zeros and ones), task=regression (numbers) or task=outputs."
)


def as_labels(array: np.ndarray) -> np.ndarray:
    """Class numbers, booleans (two classes) or one-hot rows, as (n,) int64.

    Raises:
        DataError: they are none of these; the message says what they are, and what can be done.
    """
    array = np.asarray(array)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        advice = ""
        if array.ndim == 1:
            advice = " Names become numbers with np.unique(labels, return_inverse=True)[1], of all splits at once."
        raise DataError(f"Labels are class numbers. Received: {array.dtype} of shape {array.shape}.{advice}")
    if len(array) == 0:
        return np.zeros(0, np.int64)
    if not np.isfinite(array).all():
        rows = int((~np.isfinite(array.reshape(len(array), -1))).any(1).sum())
        raise DataError(f"Labels are class numbers. Of {len(array)} labels {rows} are not finite: leave these out.")
    if columns_of(array) is not None:
        _check_one_hot(array)
        return array.argmax(1).astype(np.int64)
    flat = array.reshape(len(array), -1)
    if flat.shape[1] != 1:
        raise DataError(
            f"Labels are class numbers (n,) or one-hot rows (n, classes). Received: shape {array.shape}, such as masks "
            f"have, one for each image. {_OTHER_TASKS}"
        )
    if (flat != np.round(flat)).any():
        raise DataError(
            f"Labels are class numbers. Received: fractions, such as {flat[flat != np.round(flat)][0]:g}. Values to be "
            f"predicted are no classes. {_OTHER_TASKS}"
        )
    return flat[:, 0].astype(np.int64)


def columns_of(*arrays: np.ndarray) -> int | None:
    """How many classes the columns of one-hot labels stand for; None if all labels are of another kind.

    Raises:
        DataError: they differ in that.
    """
    shapes = [np.shape(array) for array in arrays]
    columns = {shape[1] for shape in shapes if len(shape) == 2 and shape[1] > 1}
    if len(columns) > 1:
        told = " and ".join(map(str, shapes))
        raise DataError(f"One-hot labels of training and test images have the same columns. Received: shapes {told}.")
    return columns.pop() if columns else None


def _check_one_hot(rows: np.ndarray) -> None:
    """Refuse rows of numbers that are not one-hot.

    Raises:
        DataError: saying what they look like instead.
    """
    said = f"Rows of labels must be one-hot: exactly one 1, the rest 0. Received: shape {rows.shape}, of which"
    other = ~np.isin(rows, (0, 1)).all(1)
    if other.any():
        first = ", ".join(f"{value:g}" for value in rows[other][0][:4])
        raise DataError(
            f"{said} {other.sum()} rows hold other values ({first}{', ...' if rows.shape[1] > 4 else ''}). If these "
            "are probabilities of classes, give labels.argmax(1). Key points, boxes and other values to be predicted "
            f"are no classes. {_OTHER_TASKS}"
        )
    ones = rows.sum(1)
    none, several = int((ones == 0).sum()), int((ones > 1).sum())
    if several:
        raise DataError(f"{said} {several} rows hold several: several labels per image are no classes. {_OTHER_TASKS}")
    if none:
        raise DataError(
            f"{said} {none} rows hold none. Leave out images of no class, or give them a class of their own."
        )
