"""What is known of a kind of layer, in one class; the registry of these; what is answered by looking a layer up."""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import keras
import numpy as np

from autoprune.errors import ModelError
from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.models import keras_internals
from autoprune.records import Member
from autoprune.registry import entering

Sizes = tuple[int, ...]
Flops = int | Mapping[str, int]
Factor = tuple[str, int]  # A variable and one of its axes.
S = TypeVar("S", bound=int | None)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """An operation that stays valid without some of its operands.

    Attributes:
        kind: `sum`, which is its operand when one is left, `concatenation`, or `product`, which can do without a gate.
        needed: positions of the operands that must stay.
    """

    kind: Literal["sum", "concatenation", "product"]
    needed: tuple[int, ...] = ()


class LayerKind:
    """Everything that the analyses ask of a kind of layer. Derive a class and register it with `layer_kind`.

    Example: a layer that scales every channel by a learnt factor. Its config holds the number of channels and a list
    with a name for each; when it is built it makes a table as long.

    >>> @autoprune.layer_kind(Scale)
    ... class ScaleKind(autoprune.LayerKind):
    ...     flops = 0  # no multiply-accumulates of a convolution or dense layer
    ...
    ...     def channels(self, call):
    ...         (channels,) = call.channels  # of the only input; None: nothing of it can be removed
    ...         if channels is not None:
    ...             call.bind("factor", -1, "follows", channels.ids)  # the last axis of the variable `factor`
    ...             call.bind_attribute("dim", channels.ids)  # surgery sets `layer.dim`
    ...             call.bind_values("names", 0, channels.ids)  # and shortens `layer.names`
    ...         return channels  # of the output
    ...
    ...     def update_derived(self, layer):
    ...         layer.table = tuple(range(layer.dim))

    `channels` and `flops` have to be given, the rest where the layer needs it. The instance is made without arguments
    and serves every layer of the kind, so that it keeps nothing of them.

    Attributes:
        flops: floating-point operations of one call on one image, two per multiply-accumulate. Either a method
            `flops(self, layer, inputs, outputs)` that is given the shapes of the input and output tensors as lists of
            tuples, in which the batch axis and all unknown sizes are 1, and that returns a number or, for a layer with
            layers of its own, a dictionary of numbers by their names (the empty name is the layer itself); or 0 for a
            layer without such products.
        input_variable: name of the variable of which one axis lies along the channels of the layer's input, such as
            `kernel`: importance is read from what enters the layer. Empty for a layer whose input is not looked at.
        attributes_in_call: of the bound attributes those that `call` reads; the others are for the config alone.
        homogeneous: what `is_homogeneous` says where that goes for every layer of the kind.
    """

    flops: int | Callable[..., Flops]
    input_variable: str = ""
    attributes_in_call: tuple[str, ...] = ()
    homogeneous: bool = False

    def channels(self, call: Call) -> Channels | list[Channels | None] | None:
        """The channels of a call's output, and what of the layer carries them.

        A layer that makes channels binds the output axis of its kernel as `produces` and returns
        `Channels(axis, call.bind("kernel", -1, "produces"))`; the axis with which it reads is bound as `consumes`.
        What it cannot do it freezes, `call.freeze("enters a layer that ...")`, or it leaves the layer whole,
        `call.leave_whole("has ...")`. A wrapper asks the kind of the layer within (`call.within`).

        Returns:
            One `Channels`, None where the output's channels cannot be followed, or a list of these for several outputs.
        """
        raise NotImplementedError

    def merge(self, operation: Any) -> Merge | None:
        """What the operation is when it sums, multiplies or concatenates its inputs, so that some can go; else None."""
        return None

    def input_factors(self, layer: Any) -> tuple[Factor, ...]:
        """Axes of variables that multiply what enters the layer, channel by channel.

        Scaled along these, the layer gives what it gives for an input whose channels are scaled alike. None for a layer
        into which no scale of its input can be folded.
        """
        return ()

    def output_factors(self, layer: Any) -> tuple[Factor, ...]:
        """Likewise axes of variables that multiply what the layer gives, by numbers of 0 or more."""
        return ()

    def is_homogeneous(self, operation: Any) -> bool:
        """Whether a channel that enters s times as large, s >= 0, comes out s times as large, whatever the others are.

        So do rectifiers, pooling and padding with zeros, and all that only moves numbers.
        """
        return self.homogeneous

    def update_derived(self, layer: Any) -> None:
        """Renew what the layer derived from its widths when it was built, such as a table.

        Called after its variables and bound attributes have changed, by surgery or by its undoing: these are cut
        already.
        """

    def input_channels(self, layer: Any, member: Member) -> np.ndarray | None:
        """For a group's member on the layer, the group's channel at every position of the input's channel axis.

        Returns:
            (positions,) indices as in `Member.channels`; None where the member is not on `input_variable`, or on
            another axis of it.
        """
        return member.channels if (member.name, member.role) == (self.input_variable, "consumes") else None

    def channel_axis(self, layer: Any, rank: int) -> int:
        """The axis of an input of this rank on which the channels lie, batch axis counted."""
        return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else rank - 1

    def has_patches(self, layer: Any) -> bool:
        """Whether the layer multiplies each patch of its input with all of its `kernel`, as `patches` gives them."""
        return False

    def patches(self, layer: Any, x: np.ndarray, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        """What the layer multiplies its kernel (*window, inputs, outputs) with.

        Args:
            layer: one that `has_patches`.
            x: (n, ...) what enters it.
            draw: given the number of output positions of all images, the indices of those that are wanted.

        Returns:
            (rows, window, inputs), a row for each wanted position.
        """
        raise NotImplementedError

    def shape_within(self, shape: tuple[S, ...]) -> tuple[S, ...]:
        """Of a wrapper: the shape in which the wrapped layer sees a tensor of this shape."""
        return shape

    def open_widths(self, operation: Any) -> Mapping[str, Any]:
        """Attributes and methods, by name, that let the operation be traced by TensorFlow for all widths at once.

        While a trace is made, its variables are tensors whose lengths along bound axes are open, and the
        `attributes_in_call` are tensors too. Whatever `call` then reads as a number is replaced here. An operation that
        needs nothing, or of which nothing is known, gives none; whether the trace is right is tried afterwards.
        """
        return {}

    def open_widths_of_subclass(self, layer: Any) -> Mapping[str, Any]:
        """As `open_widths`, for a layer of a class derived from the kind's that has a `call` of its own."""
        return {}


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
    return partial(_register, layer_classes)


def raw_kind(*names: str) -> Callable[[K], K]:
    """Decorator that registers a kind for raw `keras.ops` operations by class name (`Add`, `Relu`, ...)."""
    return partial(_register, names)


def _register(keys: Sequence[type | str], kind: K) -> K:
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


def count_weights(layer: Any, variable: str = "kernel") -> int:
    """Number of weights of a kernel."""
    return math.prod(keras_internals.layer_variable(layer, variable).shape)
