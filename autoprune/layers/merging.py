"""Operations on several tensors: sums and products couple channels, concatenation lines them up."""

from typing import Any

import keras
import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.kind import LayerKind, Merge, layer_kind, raw_kind
from autoprune.models import keras_internals

layers = keras.layers
_ScaledSum = keras_internals.application_class("inception_resnet_v2", "CustomScaleLayer")


@layer_kind(
    *(layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract),
    # `x + scale * f(x)`, with one scale for all channels.
    _ScaledSum,
)
@raw_kind(
    "Add", "Divide", "Greater", "Less", "Maximum", "Minimum", "Multiply", "Power", "Subtract", "TrueDivide", "Where"
)
class ElementwiseMerge(LayerKind):
    """Channels at the same position are one: `x + f(x)` can only lose the same channel from both."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """Shapes broadcast as in NumPy.

        An input of size 1 on the channel axis (a spatial attention map) constrains nothing; an input whose channels
        cannot be followed, such as the model's input, freezes the others.
        """
        if not call.tracked:
            return None
        rank = len(call.outputs[0].shape)
        # Axes are compared from the right, as broadcasting does.
        aligned = [
            (channels.axis + rank - len(tensor.shape), channels.ids)
            for tensor, channels in zip(call.inputs, call.channels, strict=True)
            if channels is not None
        ]
        axes = {own_axis for own_axis, ids in aligned if len(ids) > 1} or {own_axis for own_axis, _ in aligned}
        if len(axes) > 1:
            call.freeze(f"meets channels on another axis in '{call.path}'")
            return None
        (axis,) = axes
        size = call.outputs[0].shape[axis]
        # Inputs that span the channel axis; a single channel that is broadcast along it is frozen.
        spanning = []
        for own_axis, ids in aligned:
            if own_axis == axis and len(ids) == size:
                spanning.append(ids)
            else:
                call.freeze(f"is broadcast over the channels in '{call.path}'", ids)
        if not spanning:
            return None
        for ids in spanning[1:]:
            call.equate(spanning[0], ids)
        # An input without known channels, or a constant, may span the channel axis.
        shapes = [tuple(t.shape) for t, c in zip(call.inputs, call.channels, strict=True) if c is None]
        shapes += [tuple(value.shape) for value in call.constants]
        given = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, (list, tuple))]
        # A list of numbers is a constant as a whole.
        shapes += [np.shape(value) for value in given if all(map(np.isscalar, keras.tree.flatten(value)))]
        sizes = [shape[axis - rank] for shape in shapes if len(shape) >= rank - axis]
        if size != 1 and any(length != 1 for length in sizes):
            call.freeze(f"is combined in '{call.path}' with a tensor whose channels are fixed", spanning[0])
        return Channels(axis, spanning[0])

    def merge(self, operation: Any) -> Merge | None:
        """A sum loses an operand by leaving it out; a scaled one has to keep the one that is not scaled."""
        if isinstance(operation, _ScaledSum):
            return Merge(kind="sum", needed=(0,))
        name = keras_internals.raw_operation_name(operation)
        if isinstance(operation, layers.Multiply) or name == "Multiply":
            return Merge(kind="product")
        return Merge(kind="sum") if isinstance(operation, layers.Add) or name == "Add" else None


@layer_kind(layers.Concatenate)
@raw_kind("Concatenate")
class Concatenation(LayerKind):
    """One tensor after the other."""

    flops = 0
    homogeneous = True

    def channels(self, call: Call) -> Channels | None:
        """Along the channel axis the numbers line up; along another axis the inputs' channels are coupled."""
        if not call.tracked:
            return None
        rank = len(call.outputs[0].shape)
        axes = {channels.axis for channels in call.tracked}
        if len(axes) > 1:
            call.freeze(f"meets channels on another axis in '{call.path}'")
            return None
        (axis,) = axes
        if call.constants:
            call.freeze(f"is concatenated in '{call.path}' with a constant")
            return None
        reason = f"is concatenated in '{call.path}' with a tensor whose channels are fixed"
        runs = [
            channels.ids if channels else call.new_fixed(tensor.shape[axis], reason)
            for tensor, channels in zip(call.inputs, call.channels, strict=True)
        ]
        if call.operation.axis % rank == axis:
            return Channels(axis, np.concatenate(runs))
        for ids in runs[1:]:
            call.equate(runs[0], ids)
        return Channels(axis, runs[0])

    def merge(self, operation: Any) -> Merge:
        """What follows reads fewer channels."""
        return Merge(kind="concatenation")


@raw_kind("Stack")
class Stack(LayerKind):
    """A concatenation along a new axis."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """The channels are coupled, and move when the new axis is before theirs."""
        if not call.tracked:
            return None
        rank = len(call.outputs[0].shape)
        axes = {channels.axis for channels in call.tracked}
        if len(axes) > 1 or len(call.tracked) < len(call.inputs) or call.constants:
            call.freeze(f"is stacked in '{call.path}' with a tensor whose channels are fixed or on another axis")
            return None
        first, *others = (channels.ids for channels in call.tracked)
        for ids in others:
            call.equate(first, ids)
        (axis,) = axes
        return Channels(axis + (call.operation.axis % rank <= axis), first)
