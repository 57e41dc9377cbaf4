"""A model whose widths are open, within a trace.

Keras shapes a bias, a scale or a reshaped tensor by numbers that it reads off the layer or its input. Where pruning
leaves a length open, within the trace the length is left to the operation or taken from a tensor. What comes out is the
same; `Passes` tries whether it is, for a layer of one's own need not say how it is traced.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from autoprune.layers import kind_of, open_widths
from autoprune.models import keras_internals
from autoprune.records import ChannelGroup, Member


@dataclass(frozen=True)
class _Attribute:
    """An attribute that follows the channels and is read when the operation runs.

    Attributes:
        operation: layer or operation that has it.
        name: name of the attribute.
        places: of the numbers in an attribute that is a tuple; (-1,) for a plain integer, and none for an attribute
            that holds a value for each channel.
        axes: of the latter, those along which the channels lie.
    """

    operation: Any
    name: str
    places: tuple[int, ...]
    axes: tuple[int, ...]

    def value(self) -> np.ndarray:
        """What pruning may have changed: an integer for each place, or the values themselves."""
        found = keras_internals.read_attribute(self.operation, self.name)
        if not self.places:
            return np.asarray(found, "float32")
        return np.asarray([found if place < 0 else found[place] for place in self.places], "int32")

    def spec(self) -> tf.TensorSpec:
        """Of `value`, with the lengths open that pruning changes."""
        value = self.value()
        shape = [None if axis in self.axes else size for axis, size in enumerate(value.shape)]
        return tf.TensorSpec(shape, value.dtype)

    def written(self, tensor: tf.Tensor) -> Any:
        """The attribute with a tensor in place of `value`."""
        if not self.places:
            return tensor
        found = keras_internals.read_attribute(self.operation, self.name)
        if self.places == (-1,):
            return tensor[0]
        return tuple(
            tensor[self.places.index(place)] if place in self.places else old for place, old in enumerate(found)
        )


class OpenWidths:
    """What of a model depends on its widths, besides the values of its variables.

    Args:
        model: whose layers must not change but in their widths.
        groups: its channel groups.
    """

    def __init__(self, model: Any, groups: Sequence[ChannelGroup]) -> None:
        self._operations = keras_internals.operations_by_path(model)
        self._lengths: dict[int, list[int | None]] = {}
        bound: dict[tuple[str, str], list[Member]] = {}
        for member in (member for group in groups if group.prunable for member in group.members):
            operation = self._operations[member.layer]
            if not member.is_attribute:
                variable = keras_internals.layer_variable(operation, member.name)
                self._lengths.setdefault(id(variable), list(keras_internals.shape_of(variable)))[member.axis] = None
            elif member.name in _attributes_in_call(operation):
                bound.setdefault((member.layer, member.name), []).append(member)
        self._attributes = [
            _Attribute(
                self._operations[path],
                name,
                tuple(sorted({member.axis for member in members if member.role == "counts"})),
                tuple(member.axis for member in members if member.role == "per_channel"),
            )
            for (path, name), members in bound.items()
        ]

    def shape(self, variable: Any) -> list[int | None]:
        """Of a variable, with None for the lengths that pruning changes."""
        return list(self._lengths.get(id(variable), keras_internals.shape_of(variable)))

    def attributes(self) -> list[np.ndarray]:
        """The present values of the attributes that a trace takes as arguments."""
        return [attribute.value() for attribute in self._attributes]

    def specs(self) -> list[tf.TensorSpec]:
        """Of `attributes`."""
        return [attribute.spec() for attribute in self._attributes]

    @contextmanager
    def holding(self, tensors: Sequence[tf.Tensor]) -> Iterator[None]:
        """Within the block the model can be run by variables of open lengths, with these tensors for `attributes`."""
        with ExitStack() as stack:
            for attribute, tensor in zip(self._attributes, tensors, strict=True):
                operation, name = attribute.operation, attribute.name
                states = keras_internals.attribute_states([(operation, name)])
                stack.callback(keras_internals.restore_attributes, states)
                keras_internals.write_attributes([(operation, name, attribute.written(tensor))])
            for operation in self._operations.values():
                for name, value in open_widths(operation).items():
                    stack.enter_context(keras_internals.overridden(name, {operation: value}))
            yield


def _attributes_in_call(operation: Any) -> tuple[str, ...]:
    """Those that an operation reads when it runs; others are for its config alone."""
    kind = kind_of(operation)
    return () if kind is None else kind.attributes_in_call
