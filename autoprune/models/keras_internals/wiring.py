"""How the calls of a model are connected, and how some of them are taken out."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import keras
from keras.src.ops.function import map_graph
from keras.src.ops.symbolic_arguments import SymbolicArguments

from autoprune.models.keras_internals.graph import (
    LEFT_OUT,
    Node,
    arguments_with,
    graphs_by_path,
    has_constants,
    models_within,
    nodes_of,
)

# What Keras derives of a graph when it is made, besides the list of its layers.
_TABLES = (
    *("_nodes", "_nodes_by_depth", "_operations", "_operations_by_depth", "_outputs", "_outputs_struct"),
    "output_names",
)


class Wiring:
    """The connections of a model's graph and of those nested in it, to be put back later.

    Args:
        model: a model with a graph.
    """

    def __init__(self, model: Any) -> None:
        graphs = list(graphs_by_path(model).values())
        self._tables = [(graph, {name: vars(graph).get(name) for name in _TABLES}) for graph in graphs]
        self._layers = [(graph, list(graph._layers), set(_find_tracker(graph))) for graph in graphs]
        self._arguments = [(node, node.arguments) for graph in graphs for node in nodes_of(graph)]
        self._readers = [(node.operation, list(node.operation._outbound_nodes)) for node, _ in self._arguments]

    @property
    def holds(self) -> bool:
        """Whether no operand has been dropped since, or all of them are back."""
        return all(vars(graph).get("_nodes") is tables["_nodes"] for graph, tables in self._tables)

    def restore(self) -> bool:
        """Put every connection back: the same nodes with the same arguments, in tables that are the same objects.

        Returns:
            Whether anything had changed.
        """
        if self.holds:
            return False
        for graph, tables in self._tables:
            vars(graph).update(tables)
        for graph, layers, tracked in self._layers:
            graph._layers[:] = layers
            _find_tracker(graph).clear()
            _find_tracker(graph).update(tracked)
        for node, arguments in self._arguments:
            node.arguments = arguments
        for operation, readers in self._readers:
            operation._outbound_nodes[:] = readers
        return True


def renew_parameters(model: Any) -> None:
    """Let a model and those nested in it have the parameters of the layers that they have now; PyTorch lists them."""
    for _, found in models_within(model):
        if hasattr(found, "_torch_params"):
            found._track_variables()


def drop_operands(graph: Any, dropped: Mapping[int, set[int]]) -> tuple[list[Node], list[Any]]:
    """Take operands out of merging calls, and out of the graph what nothing else needs.

    A merge with one operand left gives way to it. Operations that stay keep their calls, with other arguments where
    these have changed, and the order that Keras would give them in a model made anew.

    Args:
        graph: the graph, as `graph_of` gives it.
        dropped: by `id` of a call of the graph, which of its input tensors go; one at least stays.

    Returns:
        The calls whose arguments have changed, and the tensors that they read in place of others.
    """
    stands_for: dict[int, Any] = {}
    changed, entering = [], []
    for node in nodes_of(graph):
        places = dropped.get(id(node), set())
        tensors = [stands_for.get(id(tensor), tensor) for tensor in node.input_tensors]
        stay = [tensor for place, tensor in enumerate(tensors) if place not in places]
        if places and len(stay) == 1 and not has_constants(node):
            stands_for[id(node.outputs[0])] = stay[0]
        elif places or any(new is not old for new, old in zip(tensors, node.input_tensors, strict=True)):
            read = [LEFT_OUT if place in places else tensor for place, tensor in enumerate(tensors)]
            args, kwargs = arguments_with(node, read)
            node.arguments = SymbolicArguments(*args, **kwargs)
            changed.append(node)
            entering.extend(stay)
    structure = keras.tree.map_structure(lambda tensor: stands_for.get(id(tensor), tensor), graph._outputs_struct)
    outputs = keras.tree.flatten(structure)
    tables = dict(zip(_TABLES, (*map_graph(graph._inputs, outputs), outputs, structure), strict=False))
    tables["output_names"] = [tensor._keras_history.operation.name for tensor in outputs]
    before = {id(node): node for node in nodes_of(graph)}
    operations = graph.operations
    vars(graph).update(tables)
    gone = before.keys() - {id(node) for node in nodes_of(graph)}
    _reconnect_readers(graph, [before[key] for key in gone])
    remaining = {id(operation) for operation in graph.operations}
    for operation in operations:
        if id(operation) not in remaining:
            graph._tracker.untrack(operation)
    return changed, entering


def _find_tracker(graph: Any) -> set[int]:
    """The `id` of the layers that Keras tracks for a graph."""
    return graph._tracker.stored_ids["layers"]


def _reconnect_readers(graph: Any, gone: list[Node]) -> None:
    """Let operations know who reads them now; calls of other models stay."""
    own = nodes_of(graph)
    known = {id(node) for node in (*own, *gone)}
    readers: dict[int, list[Node]] = defaultdict(list)
    for node in own:
        for tensor in node.input_tensors:
            readers[id(tensor._keras_history.operation)].append(node)
    for operation in graph.operations:
        others = [node for node in operation._outbound_nodes if id(node) not in known]
        operation._outbound_nodes[:] = [*readers[id(operation)], *others]
