"""Walks the calls of a model in data-flow order and asks a channel rule about each.

Before: a Keras model. After: a `Trace` with every axis that carries channels, from which `autoprune.graph.groups`
makes channel groups. Nothing here writes to the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from autoprune.graph.channels import Channels, ChannelTable
from autoprune.models import keras_internals
from autoprune.records import Role

Rule = Callable[["Call"], "Channels | list[Channels | None] | None"]


@dataclass(frozen=True, eq=False)
class Slot:
    """An axis of a variable, or an attribute, whose length follows `ids`. See `records.Member` for the fields."""

    layer: str
    name: str
    axis: int
    role: Role
    ids: np.ndarray


@dataclass
class Trace:
    """What is known of a model's channels so far.

    Attributes:
        table: numbers, equalities and freezes.
        slots: axes of variables and attributes that carry channels, in data-flow order.
    """

    table: ChannelTable = field(default_factory=ChannelTable)
    slots: list[Slot] = field(default_factory=list)
    _by_axis: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    _attributes: set[tuple[str, str, int]] = field(default_factory=set)


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
    """

    def __init__(self, trace: Trace, node: Any, path: str, channels: Sequence[Channels | None]) -> None:
        self.operation = node.operation
        self.path = path
        self.inputs = list(node.input_tensors)
        self.outputs = list(node.outputs)
        self.channels = list(channels)
        self.args, self.kwargs = keras_internals.arguments_of(node)
        self._trace = trace

    @property
    def tracked(self) -> list[Channels]:
        """The inputs' channels that are known."""
        return [channels for channels in self.channels if channels is not None]

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

    def bind(self, variable: str, axis: int, role: Role, ids: np.ndarray | None = None) -> np.ndarray:
        """Declare that an axis of one of the layer's variables carries `ids`, or new channels when None.

        A variable that is bound again, by a second call of a shared layer or through another layer that holds the
        same variable, couples the channels of both calls.

        Returns:
            The numbers along that axis.
        """
        keras_variable = keras_internals.layer_variable(self.operation, variable)
        axis %= len(keras_variable.shape)
        known = self._trace._by_axis.get((id(keras_variable), axis))
        if known is not None:
            if ids is not None:
                self.equate(known, ids)
            ids = known
        elif ids is None:
            ids = self.new(keras_variable.shape[axis])
        self._trace._by_axis[id(keras_variable), axis] = ids
        if known is None:
            self._trace.slots.append(Slot(self.path, variable, axis, role, ids))
        return ids

    def bind_attribute(self, attribute: str, ids: np.ndarray, position: int = -1) -> None:
        """Declare that an attribute of the layer holds the number of these channels.

        Args:
            attribute: name of an integer attribute, or of a tuple.
            ids: the channels it counts.
            position: index into the tuple; -1 for a plain integer.
        """
        key = (self.path, attribute, position)
        if key not in self._trace._attributes:
            self._trace._attributes.add(key)
            self._trace.slots.append(Slot(self.path, attribute, position, "sets", ids))


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
        if keras_internals.is_graph(operation):
            inner = keras_internals.graph_of(operation)
            outputs = _walk(result, inner, channels, f"{path}/", find_rule)
        else:
            outputs = _apply(result, node, path, channels, find_rule(operation))
        known.update((id(tensor), c) for tensor, c in zip(node.outputs, outputs, strict=True))
    return [known.get(id(tensor)) for tensor in graph.outputs]


def _apply(
    result: Trace, node: Any, path: str, channels: Sequence[Channels | None], rule: Rule | None
) -> list[Channels | None]:
    """Ask the rule about one call; without a rule, freeze what the call touches."""
    call = Call(result, node, path, channels)
    if rule is None:
        kind = type(node.operation).__name__
        call.freeze(f"enters '{path}' ({kind}), which has no channel rule")
        return [None] * len(node.outputs)
    outputs = rule(call)
    return outputs if isinstance(outputs, list) else [outputs] * len(node.outputs)
