"""Which layer of a model the compiler refuses: the first whose beginning of the model fails too."""

from collections.abc import Callable
from typing import Any

import keras

from autoprune.models import keras_internals


def find_failing_layer(model: Any, works: Callable[[Any], bool]) -> str:
    """Path of the first operation, in data-flow order, without which the model would not have failed.

    Args:
        model: one that does not work.
        works: tries a model that is made of the first operations of this one. Called log2(operations) times, and as
            often again for each level of nested models.
    """
    graph = keras_internals.graph_of(model)
    given = {id(tensor) for tensor in graph.inputs}
    nodes = [node for node in keras_internals.nodes_of(graph) if not {id(t) for t in node.outputs} <= given]
    low, high = 0, len(nodes) - 1
    while low < high:
        middle = (low + high) // 2
        outputs = [tensor for node in nodes[: middle + 1] for tensor in node.outputs]
        if works(keras.Model(graph.inputs, outputs)):
            low = middle + 1
        else:
            high = middle
    operation = nodes[low].operation
    if keras_internals.is_graph(operation) and not works(operation):
        return f"{operation.name}/{find_failing_layer(operation, works)}"
    return operation.name
