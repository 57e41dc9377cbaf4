"""Attributes that hold numbers of channels, wherever Keras keeps them."""

from collections.abc import Sequence
from typing import Any

from autoprune.models.keras_internals.graph import arguments_of, calls_of, raw_operation_name

Node = Any
Operation = Any


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


def write_attribute(operation: Operation, name: str, value: Any) -> None:
    """Set what `read_attribute` reads, wherever Keras keeps it, so that a saved file has it too.

    A model that begins in the middle of another's graph has copies of that graph's calls: of one operation all get it.
    """
    if raw_operation_name(operation) == "GetItem":
        for node in calls_of(operation):
            _write_bounds(node, name, value)
    else:
        restore_attribute(operation, name, (value, value))


def attribute_state(operation: Operation, name: str) -> Any:
    """What `restore_attribute` needs to put an attribute back exactly as it was written."""
    if raw_operation_name(operation) == "GetItem":
        return [node.arguments for node in calls_of(operation)]
    return getattr(operation, name), _arguments_to_save(operation).get(name)


def restore_attribute(operation: Operation, name: str, state: Any) -> None:
    """Put back what `attribute_state` took."""
    if raw_operation_name(operation) == "GetItem":
        # Copies of the call that were made after the state was taken belong to models made of the pruned one.
        for node, arguments in zip(calls_of(operation), state, strict=False):
            node.arguments = arguments
        return
    value, saved = state
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


def key_without_bounds(node: Node) -> tuple:
    """The key of a `GetItem` call with every slice replaced by a whole axis: what is left moves axes only."""
    parts = [0 if isinstance(part, int) else slice(None) for part in key_per_axis(node)]
    return _with_new_axes(_item(node)[1], parts)


def _item(node: Node) -> tuple[Any, Any]:
    args, kwargs = arguments_of(node)
    named = dict(zip(("x", "key"), args, strict=False)) | kwargs
    return named["x"], named["key"]


def _write_bounds(node: Node, name: str, bounds: Sequence[int | None]) -> None:
    """Write the `start` or `stop` of the slices of a `GetItem` call; axes without new axes stay where they are."""
    from keras.src.ops.symbolic_arguments import SymbolicArguments

    tensor, key = _item(node)
    old = key_per_axis(node)
    entries = []
    for part, bound in zip(old, bounds, strict=True):
        if isinstance(part, slice):
            start, stop = (bound, part.stop) if name == "start" else (part.start, bound)
            part = slice(start, stop, part.step)
        entries.append(part)
    node.arguments = SymbolicArguments(tensor, _with_new_axes(key, entries))


def _with_new_axes(key: Any, entries: list[Any]) -> tuple:
    """Put the new axes (None) of a key between entries that have one for every axis."""
    parts = key if isinstance(key, (tuple, list)) else (key,)
    after_ellipsis = sum(part is not None for part in parts[parts.index(Ellipsis) + 1 :]) if Ellipsis in parts else 0
    result, rest = [], list(entries)
    for part in parts:
        if part is None:
            result.append(None)
        elif part is Ellipsis:
            while len(rest) > after_ellipsis:
                result.append(rest.pop(0))
        else:
            result.append(rest.pop(0))
    return (*result, *rest)
