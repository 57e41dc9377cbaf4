"""Walks the calls of a model in data-flow order and asks a channel rule about each.

Before: a Keras model. After: a `Trace` with every axis that carries channels, from which `autoprune.graph.groups`
makes channel groups. Nothing here writes to the model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from autoprune.layers.call import Call, Rule
from autoprune.layers.channels import Channels
from autoprune.layers.record import Trace
from autoprune.models import keras_internals


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
    result.calls.append(call)
    result.used.extend((value, path) for value in call.constants)
    if rule is None:
        call.leave_whole(_why_no_rule(type(node.operation).__name__))
        return [None] * len(node.outputs)
    outputs = rule(call)
    outputs = outputs if isinstance(outputs, list) else [outputs] * len(node.outputs)
    return [_checked(call, tensor, channels) for tensor, channels in zip(node.outputs, outputs, strict=True)]


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
