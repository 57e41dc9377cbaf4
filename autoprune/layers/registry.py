"""The registry of layer kinds, and the few questions that are answered by looking a layer up in it."""

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import keras

from autoprune.errors import ModelError
from autoprune.layers.kind import LayerKind, Sizes
from autoprune.models import keras_internals
from autoprune.registry import entering

K = TypeVar("K", bound=type[LayerKind])

# By layer class, and by the name of a raw `keras.ops` operation.
_KINDS: dict[type | str, LayerKind] = {}


def layer_kind(*layer_classes: type) -> Callable[[K], K]:
    """Decorator that registers a subclass of `LayerKind`, which has an example, for layer classes.

    How channels flow is known for exactly these classes: a subclass may compute something else, so that it stays whole
    until it is registered itself. Its operations are counted as those of the nearest class that is registered.

    Raises:
        TypeError: it is no subclass of `LayerKind`, or lacks `channels` or `flops`; or what is given is no layer class.
        ValueError: a class has a kind already.
    """
    for found in layer_classes:
        if not (isinstance(found, type) and issubclass(found, keras.Layer)):
            name = getattr(found, "__name__", found)
            raise TypeError(f"layer_kind takes layer classes, @autoprune.layer_kind(MyLayer). Received: {name}")
    return _register(layer_classes)


def raw_kind(*names: str) -> Callable[[K], K]:
    """Decorator that registers a kind for raw `keras.ops` operations by class name (`Add`, `Relu`, ...)."""
    return _register(names)


def _register(keys: Sequence[type | str]) -> Callable[[K], K]:
    def register(kind: K) -> K:
        names = ", ".join(getattr(key, "__name__", str(key)) for key in keys)
        if not (isinstance(kind, type) and issubclass(kind, LayerKind)):
            name = getattr(kind, "__name__", kind)
            raise TypeError(f"The kind of {names} is a class derived from autoprune.LayerKind. Received: {name}")
        if kind.channels is LayerKind.channels:
            raise TypeError(
                f"{kind.__name__} does not say how channels pass {names}: give it `def channels(self, call)`, see "
                "autoprune.LayerKind. A layer that must stay whole has call.leave_whole('...') there."
            )
        if not hasattr(kind, "flops"):
            raise TypeError(
                f"{kind.__name__} does not say how many operations a call of {names} takes: give it `def flops(self, "
                "layer, inputs, outputs)`, with two for each multiply-accumulate, or `flops = 0` for a layer that "
                "does no more than an activation or a normalisation."
            )
        entering(_KINDS, keys, "{} has a layer kind already")(kind())
        return kind

    return register


def kind_of(operation: Any) -> LayerKind | None:
    """The kind of an operation; of a layer whose class has none that of the nearest class it derives from."""
    if not isinstance(operation, keras.Layer):
        return _KINDS.get(keras_internals.raw_operation_name(operation) or "")
    return next((_KINDS[base] for base in type(operation).__mro__ if base in _KINDS), None)


def exact_kind_of(operation: Any) -> LayerKind | None:
    """The kind of an operation; None for a layer that only derives from a class with one: it may compute otherwise."""
    return None if isinstance(operation, keras.Layer) and type(operation) not in _KINDS else kind_of(operation)


def update_derived(layers: Iterable[Any]) -> None:
    """Renew what layers derived from their widths when they were built, as their kinds say."""
    for layer in layers:
        kind = exact_kind_of(layer)
        if kind is not None:
            kind.update_derived(layer)


def shape_within(wrapper: Any, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape in which a wrapped layer sees a tensor of this shape."""
    kind = kind_of(wrapper)
    return shape if kind is None else kind.shape_within(shape)


def list_kinds() -> dict[type | str, LayerKind]:
    """Every kind by layer class, or by the name of a raw operation; the contract tests run over them."""
    return dict(_KINDS)


def call_flops(operation: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> dict[str, int]:
    """Operations of one call on one image, by path within the operation; its own path is empty.

    Args:
        operation: a layer or raw operation; one without a kind has none.
        inputs: shapes of its input tensors, in which the batch axis and unknown sizes are 1.
        outputs: of its output tensors, likewise.

    Raises:
        ModelError: the kind gives something else than numbers of operations.
    """
    kind = kind_of(operation)
    if kind is None:
        return {}
    found = kind.flops(operation, list(inputs), list(outputs)) if callable(kind.flops) else kind.flops
    counts = found if isinstance(found, Mapping) else {"": found}
    for count in counts.values():
        if not isinstance(count, numbers.Integral) or count < 0:
            raise ModelError(
                f"The operations of '{operation.name}' ({type(operation).__name__}) are a whole number, 0 or more, or "
                f"a dictionary of these. Received from {type(kind).__name__}.flops: {found!r}"
            )
    return {path: int(count) for path, count in counts.items()}


def count_calls(calls: Iterable[tuple[str, Any]]) -> tuple[dict[str, int], dict[str, Any]]:
    """Operations of calls on one image, and what is called that has no kind.

    Args:
        calls: paths and Keras's records of the calls.

    Returns:
        Operations of all calls of a layer, by path, of every layer that has some; and operations of unknown kinds, also
        within wrappers, by path.

    Raises:
        ModelError: the kind of a layer gives something else than numbers of operations.
    """
    found: dict[str, int] = {}
    unknown = {}
    for path, node in calls:
        inputs, outputs = (
            [(1, *(size or 1 for size in tensor.shape[1:])) for tensor in tensors]
            for tensors in (node.input_tensors, node.outputs)
        )
        for inside, flops in call_flops(node.operation, inputs, outputs).items():
            if flops:
                whole = f"{path}/{inside}" if inside else path
                found[whole] = found.get(whole, 0) + flops
        operation = node.operation
        while isinstance(operation, keras.layers.Wrapper) and kind_of(operation) is not None:
            operation = operation.layer
            path = f"{path}/{operation.name}"
        if kind_of(operation) is None:
            unknown[path] = operation
    return found, unknown


def open_widths(operation: Any) -> Mapping[str, Any]:
    """Attributes and methods, by name, that an operation has while it is traced for all widths at once."""
    kind = kind_of(operation)
    if kind is None:
        return {}
    registered: Any = next((base for base in type(operation).__mro__ if base in _KINDS), type(operation))
    same = type(operation).call is registered.call
    return kind.open_widths(operation) if same else kind.open_widths_of_subclass(operation)
