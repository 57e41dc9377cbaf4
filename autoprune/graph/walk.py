"""Who reads what in a graph, and what only one reader needs."""

from collections import defaultdict
from typing import Any

from autoprune.models import keras_internals

Reader = tuple[Any, int]  # A call, and which of its input tensors; None in place of a call for an output of the graph.


class Walk:
    """The connections of a graph, in both directions.

    Args:
        graph: the model's graph, or that of a nested one, with all of its connections.
    """

    def __init__(self, graph: Any) -> None:
        self._nodes = keras_internals.nodes_of(graph)
        self._places = {id(node): place for place, node in enumerate(self._nodes)}
        self._readers: dict[int, list[Reader]] = defaultdict(list)
        self._makers: dict[int, Any] = {}
        for node in self._nodes:
            for place, tensor in enumerate(node.input_tensors):
                self._readers[id(tensor)].append((node, place))
            self._makers.update((id(tensor), node) for tensor in node.outputs)
        for tensor in graph.outputs:
            self._readers[id(tensor)].append((None, 0))

    def readers_of(self, tensor: Any) -> list[Reader]:
        """Who reads a symbolic tensor."""
        return self._readers[id(tensor)]

    def maker_of(self, tensor: Any) -> Any:
        """The call that gives a symbolic tensor."""
        return self._makers[id(tensor)]

    def calls_within(self, merge: Any, operand: int) -> list[Any]:
        """The calls whose every reader is this operand, or a call that is needed only by it; in data-flow order."""
        inside: set[int] = set()
        found = []
        for node in reversed(self._nodes[: self._places[id(merge)]]):
            reading = [reader for tensor in node.outputs for reader in self._readers[id(tensor)]]
            if reading and all((call is merge and place == operand) or id(call) in inside for call, place in reading):
                inside.add(id(node))
                found.append(node)
        return found[::-1]
