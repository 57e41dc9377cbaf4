"""Walks the calls of a model in data-flow order and asks a channel rule about each.

Before: a Keras model. After: a `Trace` with every axis that carries channels, from which `autoprune.graph.groups`
makes channel groups. Nothing here writes to the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import keras
import numpy as np

from autoprune.graph.channels import Channels, ChannelTable
from autoprune.models import keras_internals
from autoprune.records import Role

Rule = Callable[["Call"], "Channels | list[Channels | None] | None"]


@dataclass(frozen=True, eq=False)
class Slot:
    """An axis of a variable, or an attribute, whose length follows `ids`. See `records.Member` for the fields.

    `width` is the number of features that each position stands for. An attribute that counts only some channels of an
    axis, such as the bound of a slice, is written anew when any of `axis_ids`, all channels of that axis, goes.
    """

    layer: str
    name: str
    axis: int
    role: Role
    ids: np.ndarray
    width: int = 1
    axis_ids: np.ndarray | None = None


@dataclass
class Trace:
    """What is known of a model's channels so far.

    Attributes:
        table: numbers, equalities and freezes.
        slots: axes of variables and attributes that carry channels, in data-flow order.
        used: variables that are arguments of operations, with the path of the operation.
    """

    table: ChannelTable = field(default_factory=ChannelTable)
    slots: list[Slot] = field(default_factory=list)
    used: list[tuple[Any, str]] = field(default_factory=list)
    # What carries channels, by the axis of a variable or position of an attribute; and what each call bound.
    _carried: dict[tuple, np.ndarray] = field(default_factory=dict)
    _bound: dict[int, list[tuple[str, set[tuple]]]] = field(default_factory=dict)

    def freeze_what_is_used_raw(self) -> None:
        """Variables that are also arguments of other operations must stay as these expect them."""
        for variable, path in self.used:
            for axis in range(len(keras_internals.shape_of(variable))):
                if (id(variable), axis) in self._carried:
                    self.table.freeze(self._carried[id(variable), axis], f"is on a variable that enters '{path}'")

    def freeze_what_only_some_calls_follow(self) -> None:
        """A layer called several times shrinks for all calls: what one of them cannot follow must stay whole."""
        for calls in self._bound.values():
            everything = set().union(*(bound for _, bound in calls))
            for path, bound in calls:
                for key in everything - bound:
                    self.table.freeze(self._carried[key], f"is shared with a call of '{path}' on fixed channels")


class Call:
    """One call of one operation, as a rule sees it.

    A rule reads the inputs' channels, declares which axes of the layer's variables carry which channels, and returns
    the channels of the output: one `Channels`, None where the output's channels cannot be followed, or a list of
    these for several outputs. `None` among the inputs means a tensor nothing of which can be removed.

    Attributes:
        operation: the layer or raw operation.
        path: its path in the model.
        inputs: symbolic input tensors.
        outputs: symbolic output tensors.
        channels: for each input its `Channels` or None.
        args: positional arguments of the call, symbolic tensors included.
        kwargs: keyword arguments likewise.
        node: the call as Keras recorded it.
    """

    def __init__(
        self, trace: Trace, node: Any, path: str, channels: Sequence[Channels | None], operation: Any = None
    ) -> None:
        self.operation = node.operation if operation is None else operation
        self.path = path
        self.inputs = list(node.input_tensors)
        self.outputs = list(node.outputs)
        self.channels = list(channels)
        self.args, self.kwargs = keras_internals.arguments_of(node)
        self._trace = trace
        self.node = node
        self._bound: set[tuple] = set()
        trace._bound.setdefault(id(self.operation), []).append((path, self._bound))

    def within(self, layer: Any, channels: Sequence[Channels | None] | None = None) -> Self:
        """The call that this layer makes of a layer of its own, for the rules of wrappers and composed layers.

        Args:
            layer: a sub-layer.
            channels: what enters it; by default what enters this call.

        Returns:
            A `Call` whose `inputs` are this call's; set them when the sub-layer sees other shapes.
        """
        channels = self.channels if channels is None else channels
        return type(self)(self._trace, self.node, f"{self.path}/{layer.name}", channels, layer)

    @property
    def tracked(self) -> list[Channels]:
        """The inputs' channels that are known."""
        return [channels for channels in self.channels if channels is not None]

    @property
    def constants(self) -> list[Any]:
        """Arrays, and variables of other layers, among the arguments, at any depth; plain numbers are none."""
        found = keras.tree.flatten((self.args, self.kwargs))
        return [value for value in found if not isinstance(value, keras.KerasTensor) and len(_shape_of(value)) > 0]

    def new(self, size: int) -> np.ndarray:
        """Numbers for channels that this call makes."""
        return self._trace.table.new(size)

    def equate(self, first: np.ndarray, second: np.ndarray) -> None:
        """Declare that two runs of channels can only be removed together."""
        self._trace.table.equate(first, second)

    def freeze(self, reason: str, ids: np.ndarray | None = None) -> None:
        """Declare that `ids` (by default every input's channels) cannot be removed."""
        runs = [channels.ids for channels in self.tracked] if ids is None else [ids]
        for run in runs:
            self._trace.table.freeze(run, reason)

    def fixed(self, size: int, reason: str) -> np.ndarray:
        """Numbers for channels that can never be removed."""
        ids = self.new(size)
        self.freeze(reason, ids)
        return ids

    def bind(self, variable: str, axis: int, role: Role, ids: np.ndarray | None = None, width: int = 1) -> np.ndarray:
        """Declare that an axis of one of the layer's variables carries `ids`, or new channels when None.

        A variable that is bound again, by a second call of a shared layer or through another layer that holds the
        same variable, couples the channels of both calls.

        Args:
            variable: name of the variable, such as `kernel`.
            axis: its axis; negative from the end.
            role: what the axis does, see `records.Member`.
            ids: the channels, as many as the axis is long.
            width: features that each position stands for: the size of an attention head.

        Returns:
            The numbers along that axis.
        """
        keras_variable = keras_internals.layer_variable(self.operation, variable)
        shape = keras_internals.shape_of(keras_variable)
        axis %= len(shape)
        size = shape[axis]
        if ids is None:
            ids = self.new(size)
        elif len(ids) != size:
            ids = self._instead_of(ids, size, variable)
        return self._carry((id(keras_variable), axis), Slot(self.path, variable, axis, role, ids, width))

    def bound(self, variable: str, axis: int) -> np.ndarray | None:
        """Numbers that an axis of one of the layer's variables has been bound to, or None."""
        keras_variable = keras_internals.layer_variable(self.operation, variable)
        return self._trace._carried.get((id(keras_variable), axis % len(keras_internals.shape_of(keras_variable))))

    def bind_attribute(
        self, attribute: str, ids: np.ndarray, position: int = -1, axis_ids: np.ndarray | None = None
    ) -> None:
        """Declare that an attribute of the layer holds the number of these channels.

        Args:
            attribute: name of an integer attribute, or of a tuple.
            ids: the channels it counts.
            position: index into the tuple; -1 for a plain integer.
            axis_ids: all channels of the axis, where the attribute counts only some of them.
        """
        slot = Slot(self.path, attribute, position, "sets", ids, axis_ids=axis_ids)
        self._carry((id(self.operation), attribute, position), slot)

    def bind_values(self, attribute: str, axis: int, ids: np.ndarray) -> None:
        """Declare that an attribute of the layer holds a value for each of these channels along an axis.

        Args:
            attribute: name of an attribute that is a list, a tuple or an array.
            axis: its axis; negative from the end.
            ids: the channels, as many as the axis is long.
        """
        axis %= np.ndim(getattr(self.operation, attribute))
        self._carry((id(self.operation), attribute, axis), Slot(self.path, attribute, axis, "holds", ids))

    def _carry(self, key: tuple, slot: Slot) -> np.ndarray:
        """Note a slot the first time; couple its channels with the first ones after that."""
        self._bound.add(key)
        known = self._trace._carried.get(key)
        if known is None:
            self._trace._carried[key] = slot.ids
            self._trace.slots.append(slot)
            return slot.ids
        if len(known) == len(slot.ids):
            self.equate(known, slot.ids)
        else:
            for ids in (known, slot.ids):
                self.freeze(f"is counted by '{slot.name}' of '{self.path}' together with others", ids)
        return known

    def _instead_of(self, ids: np.ndarray, size: int, name: str) -> np.ndarray:
        """Numbers that fit, where a rule has lost count of some channels: neither those nor these can be removed."""
        reason = f"enters '{self.path}' with other channels, which cannot be told apart in its {name}"
        self.freeze(reason, ids)
        return self.fixed(size, reason)


def trace(model: Any, find_rule: Callable[[Any], Rule | None]) -> Trace:
    """Follow the channels through a model.

    Args:
        model: a Functional or built Sequential model.
        find_rule: gives the channel rule of an operation, or None.

    Raises:
        ModelError: the model has no graph to follow.
    """
    graph = keras_internals.graph_of(model)
    result = Trace()
    outputs = _walk(result, graph, [None] * len(graph.inputs), "", find_rule)
    result.freeze_what_only_some_calls_follow()
    result.freeze_what_is_used_raw()
    for tensor, channels in zip(graph.outputs, outputs, strict=True):
        if channels is not None:
            maker = keras_internals.maker_of(tensor)
            result.table.freeze(channels.ids, f"is an output of the model ('{maker.name}')", first=True)
    return result


def _walk(
    result: Trace,
    graph: Any,
    inputs: Sequence[Channels | None],
    prefix: str,
    find_rule: Callable[[Any], Rule | None],
) -> list[Channels | None]:
    """Follow the channels through one graph, nested models included; returns those of the graph's outputs."""
    known: dict[int, Channels | None] = {id(t): c for t, c in zip(graph.inputs, inputs, strict=True)}
    for node in keras_internals.nodes_of(graph):
        operation = node.operation
        path = prefix + operation.name
        if node.is_input or isinstance(operation, keras.layers.InputLayer):
            continue
        channels = [known.get(id(tensor)) for tensor in node.input_tensors]
        entering = keras_internals.entering_tensors(operation, node) if keras_internals.is_graph(operation) else None
        if entering is not None:
            inner = keras_internals.graph_of(operation)
            outputs = _walk(result, inner, [known.get(id(tensor)) for tensor in entering], f"{path}/", find_rule)
        else:
            outputs = _apply(result, node, path, channels, find_rule(operation))
        known.update((id(tensor), c) for tensor, c in zip(node.outputs, outputs, strict=True))
    return [known.get(id(tensor)) for tensor in graph.outputs]


def _apply(
    result: Trace, node: Any, path: str, channels: Sequence[Channels | None], rule: Rule | None
) -> list[Channels | None]:
    """Ask the rule about one call; without a rule, freeze what the call touches."""
    call = Call(result, node, path, channels)
    result.used.extend((value, path) for value in call.constants if isinstance(value, keras.Variable))
    if rule is None:
        kind = type(node.operation).__name__
        call.freeze(f"enters '{path}' ({kind}), which {_why_no_rule(kind)}")
        return [None] * len(node.outputs)
    outputs = rule(call)
    outputs = outputs if isinstance(outputs, list) else [outputs] * len(node.outputs)
    return [_checked(call, tensor, channels) for tensor, channels in zip(node.outputs, outputs, strict=True)]


def _shape_of(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _why_no_rule(kind: str) -> str:
    if kind == "Lambda":
        return "runs code that cannot be followed; use keras.ops, or a layer with a rule (autoprune.channel_rule)"
    return "has no channel rule (autoprune.channel_rule adds one)"


def _checked(call: Call, tensor: Any, channels: Channels | None) -> Channels | None:
    """The channels of an output, unless the rule lost count: a constant may lie among them."""
    if channels is not None and channels.axis == 0:
        call.freeze(f"takes the place of the batch in '{call.path}'", channels.ids)
        return None
    if channels is None or tensor.shape[channels.axis] == len(channels.ids):
        return channels
    call.freeze(f"meets channels of unknown origin in '{call.path}'", channels.ids)
    return None
