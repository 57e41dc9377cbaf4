"""Variables: other storage behind the same object."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np


def storage(variable: Any) -> Any:
    """The backend's own variable or array behind a `keras.Variable`."""
    return variable._value


def value_of(variable: Any) -> Any:
    """The present value as a tensor of the backend, which later changes of the variable do not reach."""
    stored = variable._value
    # On JAX a training step takes the variables' own arrays for its results: what was in them is gone.
    return stored.value() if _is_mutable(stored) else keras.ops.stop_gradient(keras.ops.copy(stored))


def array_of(variable: Any) -> np.ndarray:
    """The present value, to be read only: it shares memory with the variable where it can, as `numpy()` does not."""
    stored = variable._value
    return stored.value()._numpy() if _is_mutable(stored) else keras.ops.convert_to_numpy(stored)


def shape_of(variable: Any) -> tuple[int, ...]:
    """The variable's shape as plain integers, without the backend's class of shapes around it."""
    return tuple(variable._shape)


def put_back(variable: Any, stored: Any, value: Any) -> None:
    """Put storage taken by `storage` back with the value that `value_of` took; the variable keeps its identity."""
    if _is_mutable(stored):
        # A hundred layers have a thousand variables: what `keras.Variable.assign` checks is known to hold here.
        stored.assign(value, read_value=False)
        variable._value = stored
    elif _is_parameter(stored):
        _refill(stored, keras.ops.copy(value))
        variable._value = stored
    else:
        variable._value = keras.ops.copy(value)
    _refresh_shape(variable)


def _is_mutable(stored: Any) -> bool:
    """Whether the backend keeps a variable of its own behind `keras.Variable` (TensorFlow), or a tensor."""
    return hasattr(stored, "read_value")


def _is_parameter(stored: Any) -> bool:
    """Whether that tensor is a parameter (PyTorch), which layers and their gradients know by identity."""
    return hasattr(stored, "requires_grad")


def _refill(parameter: Any, tensor: Any) -> None:
    """Other values, of whatever shape, in the same parameter; the gradient of the old ones is void."""
    parameter.grad = None
    # PyTorch remembers for which shape it sums up a parameter's gradients until a value of another type comes.
    parameter.data = keras.ops.zeros(0, "float16")
    parameter.data = tensor


def replace_value(variable: Any, value: np.ndarray) -> None:
    """Give a variable new storage of another shape.

    The `keras.Variable` object stays: layers that share it go on sharing it, an optimiser that knows it by identity
    still does, and its path, regulariser, constraint and trainable flag are untouched. The old storage is freed with
    its last reference.
    """
    stored = variable._value
    if not _is_mutable(stored):
        value = keras.ops.convert_to_tensor(value, dtype=variable.dtype)
    if _is_parameter(stored):
        _refill(stored, value)
    else:
        # Variables of a distribution strategy, one on each of its devices, are only made within its scope.
        strategy = getattr(stored, "distribute_strategy", None)
        with nullcontext() if strategy is None else strategy.scope():
            variable._initialize(value)
    _refresh_shape(variable)


def without_gradients() -> AbstractContextManager[Any]:
    """Within the block nothing is kept for gradients: PyTorch alone keeps it wherever it is not told otherwise."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


@contextmanager
def stand_in(pairs: Sequence[tuple[Any, Any]]) -> Iterator[keras.StatelessScope]:
    """Within the block tensors stand in for variables, also for their shapes, and collect what is assigned to them.

    `keras.StatelessScope` itself refuses tensors whose lengths are not known yet, which are None here.
    """
    scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
    before = [variable._shape for variable, _ in pairs]
    try:
        for variable, value in pairs:
            scope.state_mapping[id(variable)] = value
            variable._shape = tuple(value.shape)
        with scope:
            yield scope
    finally:
        for (variable, _), shape in zip(pairs, before, strict=True):
            variable._shape = shape


def _refresh_shape(variable: Any) -> None:
    shape = tuple(variable._value.shape)
    variable._shape = shape
    variable._ndim = len(shape)
