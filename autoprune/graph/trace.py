"""Walks the calls of a model in data-flow order and asks the kind of each layer about it.

Before: a Keras model. After: a `Trace` with every axis that carries channels, from which `autoprune.graph.groups`
makes channel groups. Nothing here writes to the model.
"""

from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from autoprune.layers import Call, Channels, exact_kind_of
from autoprune.layers.record import Operand, Trace
from autoprune.models import keras_internals


def trace(model: Any, rename: Collection[Operand] = ()) -> Trace:
    """Follow the channels through a model.

    Args:
        model: a Functional or built Sequential model.
        rename: operands whose channels get numbers of their own where they enter the call, so that they can be told
            from the same channels elsewhere. An operand that hands on new numbers keeps them.

    Raises:
        ModelError: the model has no graph to follow.
    """
    graph = keras_internals.graph_of(model)
    result = Trace()
    outputs = _walk(result, graph, [None] * len(graph.inputs), "", rename)
    result.freeze_what_only_some_follow()
    for tensor, channels in zip(graph.outputs, outputs, strict=True):
        if channels is not None:
            maker = keras_internals.maker_of(tensor)
            result.table.freeze(channels.ids, f"is an output of the model ('{maker.name}')", first=True)
    return result


def _walk(
    result: Trace, graph: Any, inputs: Sequence[Channels | None], prefix: str, rename: Collection[Operand]
) -> list[Channels | None]:
    """Follow the channels through one graph, nested models included; returns those of the graph's outputs."""
    known: dict[int, Channels | None] = {id(t): c for t, c in zip(graph.inputs, inputs, strict=True)}
    for node in keras_internals.nodes_of(graph):
        operation = node.operation
        path = prefix + operation.name
        if node.is_input or isinstance(operation, keras.layers.InputLayer):
            continue
        channels = [known.get(id(tensor)) for tensor in node.input_tensors]
        for place in [place for place in range(len(channels)) if (id(node), place) in rename] if rename else ():
            operand, old = (id(node), place), channels[place]
            if old is None:
                result.unknown.add(operand)
            # A model within the model that is called again has one set of new numbers.
            elif not any(np.isin(old.ids, new).any() for other, new in result.renamed.items() if other != operand):
                new = result.renamed.setdefault(operand, result.table.new(len(old.ids)))
                channels[place] = Channels(old.axis, new)
        entering = keras_internals.entering_tensors(operation, node) if keras_internals.is_graph(operation) else None
        if entering is not None:
            inner = keras_internals.graph_of(operation)
            outputs = _walk(result, inner, [known.get(id(tensor)) for tensor in entering], f"{path}/", rename)
        else:
            outputs = _ask_kind(result, node, path, channels)
        known.update((id(tensor), c) for tensor, c in zip(node.outputs, outputs, strict=True))
    return [known.get(id(tensor)) for tensor in graph.outputs]


def _ask_kind(result: Trace, node: Any, path: str, channels: Sequence[Channels | None]) -> list[Channels | None]:
    """The output channels of one call as the operation's kind says; without a kind, freeze what the call touches."""
    call = Call(result, node, path, channels)
    result.calls.append(call)
    result.used.extend((value, path) for value in call.constants)
    kind = exact_kind_of(node.operation)
    if kind is None:
        if type(node.operation).__name__ == "Lambda":
            why = "runs code that cannot be followed; use keras.ops, or a layer with a kind (autoprune.layer_kind)"
        else:
            why = "has no layer kind (autoprune.layer_kind adds one)"
        call.leave_whole(why)
        return [None] * len(node.outputs)
    outputs = kind.channels(call)
    outputs = list(outputs) if isinstance(outputs, list) else [outputs] * len(node.outputs)
    for place, (tensor, found) in enumerate(zip(node.outputs, outputs, strict=True)):
        if found is not None and found.axis == 0:
            call.freeze(f"takes the place of the batch in '{path}'", found.ids)
            outputs[place] = None
        elif found is not None and tensor.shape[found.axis] != len(found.ids):
            # The kind has lost count: a constant may lie among the channels.
            call.freeze(f"meets channels of unknown origin in '{path}'", found.ids)
            outputs[place] = None
    return outputs
