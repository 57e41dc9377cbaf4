"""Variables: other storage behind the same object."""

from typing import Any

import keras
import numpy as np


def storage(variable: Any) -> Any:
    """The backend's own variable or array behind a `keras.Variable`."""
    return variable._value


def value_of(variable: Any) -> Any:
    """The present value as a tensor of the backend, which later changes of the variable do not reach."""
    stored = variable._value
    return stored.read_value() if hasattr(stored, "read_value") else stored


def set_storage(variable: Any, stored: Any) -> None:
    """Put storage taken by `storage` back; the `keras.Variable` keeps its identity, path and owners."""
    variable._value = stored
    _refresh_shape(variable)


def replace_value(variable: Any, value: np.ndarray) -> None:
    """Give a variable new storage of another shape.

    The `keras.Variable` object stays: layers that share it go on sharing it, an optimiser that knows it by identity
    still does, and its path, regulariser, constraint and trainable flag are untouched. The old storage is freed with
    its last reference.
    """
    dtype = variable.dtype
    variable._initialize(keras.ops.convert_to_tensor(value, dtype=dtype))
    _refresh_shape(variable)


def _refresh_shape(variable: Any) -> None:
    shape = tuple(variable._value.shape)
    variable._shape = shape
    variable._ndim = len(shape)
