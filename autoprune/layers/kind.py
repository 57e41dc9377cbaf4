"""What is known of a kind of layer, in one class; `registry.py` holds the classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.records import Member

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
    """

    flops: int | Callable[..., Flops]
    input_variable: str = ""
    attributes_in_call: tuple[str, ...] = ()

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
        return False

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
