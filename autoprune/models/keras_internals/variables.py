"""What surgery changes in an operation: its variables, and attributes that hold numbers of channels.

A variable gets other storage behind the same object. Functions that take many variables, or attributes, are for what is
done to a whole model at once.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np

from autoprune.models.keras_internals.graph import arguments_of, calls_of, raw_operation_name

Node = Any
Operation = Any
Variable = Any
# Rows that `take` copies at a time.
_BLOCK = 64


def layer_variable(layer: Any, name: str) -> Any:
    """The variable that the public name of a layer stands for (`kernel` is stored as `_kernel` in some layers).

    Raises:
        AttributeError: the layer has no such variable.
    """
    for attribute in (f"_{name}", name):
        value = vars(layer).get(attribute)
        if isinstance(value, keras.Variable):
            return value
    raise AttributeError(f"layer '{layer.name}' has no variable '{name}'")


def variables_at(operations: Mapping[str, Operation], places: Iterable[tuple[str, str]]) -> list[Variable]:
    """The variables at (operation path, variable name) places, see `layer_variable`.

    Raises:
        AttributeError: there is no such variable.
    """
    return [layer_variable(operations[path], name) for path, name in places]


def has_variable(layer: Any, name: str) -> bool:
    """Whether `layer_variable` would find one."""
    return any(isinstance(vars(layer).get(key), keras.Variable) for key in (f"_{name}", name))


def has_parameters(layer: Any) -> bool:
    """Whether the layer, or one within it, has variables that training could change, be it frozen or not."""
    return any(within._trainable_variables for within in layer._flatten_layers())


def array_initializers(layers: Iterable[Any]) -> list[tuple[Any, str, Any]]:
    """The initialisers that hold a value for each element, such as a table of word vectors.

    Returns:
        For each its layer, its attribute there, and itself.
    """
    return [
        (layer, name, value)
        for layer in layers
        for name, value in vars(layer).items()
        if name.endswith("_initializer") and isinstance(value, keras.initializers.Constant) and np.ndim(value.value) > 0
    ]


def storage(variable: Any) -> Any:
    """The backend's own variable or array behind a `keras.Variable`."""
    return variable._value


def values_of(variables: Iterable[Variable]) -> list[Any]:
    """The present values as tensors of the backend, which later changes of the variables do not reach."""
    # On JAX a training step takes the variables' own arrays for its results: what was in them is gone.
    storages = [variable._value for variable in variables]
    return [
        stored.value() if _is_mutable(stored) else keras.ops.stop_gradient(keras.ops.copy(stored))
        for stored in storages
    ]


def assign_values(variables: Iterable[Variable], values: Iterable[Any]) -> None:
    """Write tensors of the shapes that the variables have, on TensorFlow."""
    for variable, value in zip(variables, values, strict=True):
        variable._value.assign(value, read_value=False)


def array_of(variable: Any) -> np.ndarray:
    """The present value, to be read only: it shares memory with the variable where it can, as `numpy()` does not."""
    stored = variable._value
    return stored.value()._numpy() if _is_mutable(stored) else keras.ops.convert_to_numpy(stored)


def shape_of(variable: Any) -> tuple[int, ...]:
    """The variable's shape as plain integers, without the backend's class of shapes around it."""
    return tuple(variable._shape)


def remember(variables: Sequence[Variable]) -> list[tuple[Variable, Any, Any]]:
    """Variables, their storage, and their values: batch norm overwrites storage that surgery left alone.

    The values are tensors that nothing changes: TensorFlow copies a buffer when the variable is next written, on JAX
    they are copies from the start.
    """
    return [(variable, variable._value, value) for variable, value in zip(variables, values_of(variables), strict=True)]


def put_back(remembered: Iterable[tuple[Variable, Any, Any]]) -> None:
    """Put back, to the bit, what `remember` has; the variables keep their identities."""
    for variable, stored, value in remembered:
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


def slice_variables(
    variables: Iterable[Variable], masks: Iterable[Mapping[int, np.ndarray]]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Give variables new storage with the parts of their values that stay.

    The `keras.Variable` objects stay: layers that share one go on sharing it, an optimiser that knows it by identity
    still does, and its path, regulariser, constraint and trainable flag are untouched. The old storage is freed with
    its last reference.

    Args:
        variables: each once.
        masks: for each, by axis a mask of the positions that stay; other axes stay whole.

    Returns:
        The shapes of before and after.
    """
    shapes = []
    for variable, of_variable in zip(variables, masks, strict=True):
        before = array_of(variable)
        after = take(before, of_variable)
        shapes.append((before.shape, after.shape))
        stored = variable._value
        value = after if _is_mutable(stored) else keras.ops.convert_to_tensor(after, dtype=variable.dtype)
        if _is_parameter(stored):
            _refill(stored, value)
        else:
            # Variables of a distribution strategy, one on each of its devices, are only made within its scope.
            strategy = getattr(stored, "distribute_strategy", None)
            with nullcontext() if strategy is None else strategy.scope():
                variable._initialize(value)
        _refresh_shape(variable)
    return shapes


def take(value: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """The part of an array that stays, as an array of its own."""
    if len(masks) < 2 or value.ndim - 1 not in masks:
        for axis, mask in masks.items():
            value = np.compress(mask, value, axis)
        return np.ascontiguousarray(value)
    # Row by row in blocks that fit the cache: cutting one axis after the other would write the first cut of a large
    # kernel to memory and read it again, which takes twice the time.
    leading = [masks.get(axis, np.ones(size, bool)) for axis, size in enumerate(value.shape[:-1])]
    rows = np.flatnonzero(functools.reduce(np.logical_and.outer, leading))
    columns = np.flatnonzero(masks[value.ndim - 1])
    flat = value.reshape(-1, value.shape[-1])
    part = np.empty((len(rows), len(columns)), value.dtype)
    for start in range(0, len(rows), _BLOCK):
        block = flat[rows[start : start + _BLOCK]]
        # Indices are within bounds; `clip` lets NumPy write into `part` without a copy between.
        np.take(block, columns, 1, out=part[start : start + _BLOCK], mode="clip")
    return part.reshape(*(int(mask.sum()) for mask in leading), len(columns))


def _refresh_shape(variable: Any) -> None:
    shape = tuple(variable._value.shape)
    variable._shape = shape
    variable._ndim = len(shape)


def read_attribute(operation: Operation, name: str) -> Any:
    """An attribute of an operation that holds a number of channels.

    Two raw operations keep theirs in another form, which is brought into this one: the pieces of a `Split` are its
    `indices_or_sections` as a tuple of indices, the bounds of a `GetItem` its `start` and `stop`, one per input axis.
    """
    kind = raw_operation_name(operation)
    if kind == "GetItem":
        return tuple(getattr(part, name, None) for part in key_per_axis(calls_of(operation)[0]))
    value = getattr(operation, name)
    if kind == "Split" and isinstance(value, int):
        size = calls_of(operation)[0].input_tensors[0].shape[operation.axis] // value
        return tuple(size * number for number in range(1, value))
    return value


def write_attributes(edits: Iterable[tuple[Operation, str, Any]]) -> None:
    """Set what `read_attribute` reads, wherever Keras keeps it, so that a saved file has it too.

    A model that begins in the middle of another's graph has copies of that graph's calls: of one operation all get it.

    Args:
        edits: operation, attribute, value; of a `GetItem` the `start` or `stop` of its slices.
    """
    from keras.src.ops.symbolic_arguments import SymbolicArguments

    for operation, name, value in edits:
        if raw_operation_name(operation) == "GetItem":
            for node in calls_of(operation):
                tensor, key = _item(node)
                entries = []
                for part, bound in zip(key_per_axis(node), value, strict=True):
                    if isinstance(part, slice):
                        start, stop = (bound, part.stop) if name == "start" else (part.start, bound)
                        part = slice(start, stop, part.step)
                    entries.append(part)
                # Axes without new axes stay where they are.
                node.arguments = SymbolicArguments(tensor, _with_new_axes(key, entries))
        else:
            _set_attribute(operation, name, value, value)


def attribute_states(places: Iterable[tuple[Operation, str]]) -> list[tuple[Operation, str, Any]]:
    """What `restore_attributes` needs to put attributes back exactly as they were written."""
    return [
        (
            operation,
            name,
            [node.arguments for node in calls_of(operation)]
            if raw_operation_name(operation) == "GetItem"
            else (getattr(operation, name), _arguments_to_save(operation).get(name)),
        )
        for operation, name in places
    ]


def restore_attributes(states: Iterable[tuple[Operation, str, Any]]) -> None:
    """Put back what `attribute_states` took."""
    for operation, name, state in states:
        if raw_operation_name(operation) == "GetItem":
            # Copies of the call that were made after the state was taken belong to models made of the pruned one.
            for node, arguments in zip(calls_of(operation), state, strict=False):
                node.arguments = arguments
        else:
            _set_attribute(operation, name, *state)


def _set_attribute(operation: Operation, name: str, value: Any, saved: Any) -> None:
    setattr(operation, name, value)
    if name in _arguments_to_save(operation):
        _arguments_to_save(operation)[name] = saved


def _arguments_to_save(operation: Operation) -> dict[str, Any]:
    """The constructor's arguments, from which raw operations and simple layers make their config."""
    saved = getattr(operation, "_auto_config", None)
    return {} if saved is None else saved.config


def key_per_axis(node: Node) -> list[Any]:
    """The key of a `GetItem` call with one entry, a slice or an index, for every axis of its input; no new axes."""
    tensor, key = _item(node)
    key = [part for part in (key if isinstance(key, (tuple, list)) else (key,)) if part is not None]
    places = [place for place, part in enumerate(key) if part is Ellipsis]
    place = places[0] if places else len(key)
    before, after = key[:place], key[place + 1 :]
    return [*before, *[slice(None)] * (len(tensor.shape) - len(before) - len(after)), *after]


def key_without_bounds(node: Node) -> tuple[Any, ...]:
    """The key of a `GetItem` call with every slice replaced by a whole axis: what is left moves axes only."""
    parts = [0 if isinstance(part, int) else slice(None) for part in key_per_axis(node)]
    return _with_new_axes(_item(node)[1], parts)


def _item(node: Node) -> tuple[Any, Any]:
    args, kwargs = arguments_of(node)
    named = dict(zip(("x", "key"), args, strict=False)) | kwargs
    return named["x"], named["key"]


def _with_new_axes(key: Any, entries: list[Any]) -> tuple[Any, ...]:
    """Put the new axes (None) of a key between entries that have one for every axis."""
    parts = key if isinstance(key, (tuple, list)) else (key,)
    after_ellipsis = sum(part is not None for part in parts[parts.index(Ellipsis) + 1 :]) if Ellipsis in parts else 0
    result: list[Any] = []
    rest = list(entries)
    for part in parts:
        if part is None:
            result.append(None)
        elif part is Ellipsis:
            while len(rest) > after_ellipsis:
                result.append(rest.pop(0))
        else:
            result.append(rest.pop(0))
    return (*result, *rest)
