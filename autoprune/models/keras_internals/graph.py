"""What a model is made of: operations, their calls in data-flow order, and the symbolic tensors between them."""

import importlib
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.saving.serialization_lib import SafeModeScope

from autoprune.errors import ModelError

Node = Any
Operation = Any
LEFT_OUT = object()


def check_model(model: Any) -> None:
    """Refuse what is no model, such as the path of one.

    Raises:
        ModelError: saying what to do.
    """
    if isinstance(model, (str, os.PathLike)):
        raise ModelError(
            f"Expected a model. Received a path: '{model}'. Load it first: "
            f"model = keras.saving.load_model('{model}', compile=False)"
        )
    if not isinstance(model, keras.Model):
        raise ModelError(f"Expected a Keras model, Functional or Sequential. Received: {type(model).__name__}")


def graph_of(model: Any) -> Any:
    """The `keras.Function` that holds the model's operations and nodes.

    Raises:
        ModelError: it is no model, is subclassed, or a Sequential model that has no input shape yet.
    """
    check_model(model)
    sequential = isinstance(model, keras.Sequential)
    if sequential and model._functional is None:
        raise ModelError(
            f"The Sequential model '{model.name}' has no graph yet. Call it on data once, or put a "
            "keras.Input(shape) first, then prune it."
        )
    if not sequential and not isinstance(model, Functional):
        raise ModelError(
            f"'{getattr(model, 'name', model)}' ({type(model).__name__}) is a subclassed model: its layers can be "
            "listed, but what flows between them cannot. Write its forward pass with the functional API "
            "(keras.Model(inputs, outputs)) or as keras.Sequential, load the weights into that, and prune that."
        )
    kind: type[Any] = type(model)
    if kind.call is not plain_class(kind).call:
        raise ModelError(
            f"The model '{model.name}' ({kind.__name__}) is built with the "
            f"{'Sequential' if sequential else 'functional'} API but overrides `call`, so its graph is not what it "
            "computes. Remove the override to prune it."
        )
    return model._functional if sequential else model


def plain_class(kind: type[Any]) -> type[Any]:
    """The class of Keras's own beneath the class of a model with a graph."""
    return keras.Sequential if issubclass(kind, keras.Sequential) else Functional


def input_structure(model: Any) -> Any:
    """The model's symbolic inputs in the structure in which it takes them: a tensor, a list or a dict."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def output_structure(model: Any) -> Any:
    """The model's symbolic outputs in the structure in which it gives them."""
    return graph_of(model)._outputs_struct


def output_names(model: Any) -> list[str]:
    """What a model calls its outputs, in their order; a Sequential one calls its only one nothing."""
    return list(getattr(model, "output_names", None) or ["output"])


def running_own_code() -> AbstractContextManager[Any]:
    """Within it Keras makes Lambda layers of configs: of models of this process, where their code runs already."""
    return SafeModeScope(safe_mode=False)


def run_on(model: Any, batch: Any, *, training: bool = False) -> Any:
    """What a model makes of a batch: one array is put into the structure in which the model takes it."""
    leaves = keras.tree.flatten(batch)
    if len(leaves) == 1:
        batch = keras.tree.pack_sequence_as(input_structure(model), leaves)
    return model(batch, training=training)


def without_gradients() -> AbstractContextManager[Any]:
    """Within the block nothing is kept for gradients: PyTorch alone keeps it wherever it is not told otherwise."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def entering_tensors(model: Operation, node: Node) -> list[Any] | None:
    """What enters the inputs of a nested model in one of its calls, in the order of its graph's inputs.

    A dictionary is matched by name, as Keras does; None where the numbers do not agree.
    """
    args, kwargs = arguments_of(node)
    given = args[0] if args else kwargs.get("inputs")
    graph = graph_of(model)
    if isinstance(given, dict):
        structure = graph._inputs_struct
        names = sorted(structure) if isinstance(structure, dict) else [tensor.name for tensor in graph.inputs]
        if set(names) <= set(given):
            return [given[name] for name in names]
    flat = keras.tree.flatten(given)
    return flat if len(flat) == len(graph.inputs) else None


def is_graph(operation: Operation) -> bool:
    """Whether the operation is itself a model with a graph (a nested Functional or built Sequential)."""
    kind: type[Any] = type(operation)
    if isinstance(operation, keras.Sequential):
        return operation._functional is not None and kind.call is keras.Sequential.call
    return isinstance(operation, Functional) and kind.call is Functional.call


def nodes_of(graph: Any) -> list[Node]:
    """The calls that make up one model, in data-flow order, inputs first; side by side as `operations` lists them."""
    place = {id(operation): number for number, operation in enumerate(graph.operations)}
    ordered = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        ordered.extend(sorted(graph._nodes_by_depth[depth], key=lambda node: place[id(node.operation)]))
    return ordered


def graphs_within(graph: Any) -> list[Any]:
    """A graph and those nested in it."""
    graphs = [graph]
    for inner in graphs:
        graphs += [graph_of(operation) for operation in inner.operations if is_graph(operation)]
    return graphs


def models_within(model: Any) -> list[tuple[str, Any]]:
    """A model, with its name, and the models nested in it, with their paths."""
    nested = [(path, found) for path, found in operations_by_path(model).items() if is_graph(found)]
    return [(model.name, model), *nested]


def calls_by_path(graph: Any, prefix: str = "") -> list[tuple[str, Node]]:
    """The calls that make up one model with the path of each, in data-flow order: of nested models those within."""
    found = []
    for node in nodes_of(graph):
        path = prefix + node.operation.name
        if is_graph(node.operation):
            found += calls_by_path(graph_of(node.operation), f"{path}/")
        elif not node.is_input:
            found.append((path, node))
    return found


def maker_of(tensor: Any) -> Operation:
    """The operation whose call made a symbolic tensor."""
    return tensor._keras_history.operation


def call_of(tensor: Any) -> Node:
    """The call that made a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def operations_by_path(model: Any) -> dict[str, Operation]:
    """Every operation of a model by its path: `outer/inner` for those of nested models and for layers within layers."""
    found: dict[str, Operation] = {}
    _collect(graph_of(model).operations, "", found)
    return found


def graphs_by_path(model: Any) -> dict[str, Any]:
    """The model's graph and those nested in it, each once, by what the paths of its operations begin with.

    Models within a layer that is no model, such as a wrapper, are that layer's own.
    """
    found = {"": graph_of(model)}
    pending = [("", found[""])]
    for prefix, graph in pending:
        for operation in graph.operations:
            if is_graph(operation) and all(graph_of(operation) is not other for other in found.values()):
                path = f"{prefix}{operation.name}/"
                found[path] = graph_of(operation)
                pending.append((path, found[path]))
    return found


def layers_by_path(model: Any, *, nested: bool = True) -> dict[str, Any]:
    """As `operations_by_path`, without raw `keras.ops` operations, nor nested models where those are not wanted."""
    layers = {path: found for path, found in operations_by_path(model).items() if isinstance(found, keras.Layer)}
    return layers if nested else {path: found for path, found in layers.items() if not is_graph(found)}


def _collect(operations: Sequence[Operation], prefix: str, found: dict[str, Operation]) -> None:
    for operation in operations:
        path = prefix + operation.name
        found[path] = operation
        if is_graph(operation):
            _collect(graph_of(operation).operations, f"{path}/", found)
        elif isinstance(operation, keras.Layer):
            _collect(operation._layers, f"{path}/", found)


def application_class(module: str, name: str) -> type[Any]:
    """A layer class that `keras.applications` defines for itself and exports nowhere, such as ConvNeXt's LayerScale."""
    return getattr(importlib.import_module(f"keras.src.applications.{module}"), name)


def calls_of(operation: Operation) -> list[Node]:
    """Every symbolic call of an operation, also those that belong to other models."""
    return list(operation._inbound_nodes)


def list_calls(graph: Any) -> list[Node]:
    """Every call of every operation of a graph, each after the calls whose outputs it reads.

    Calls that belong to other models are included: layers added to a Sequential model one by one have been called
    once for each intermediate model, and `summary()` shows the first of those calls.
    """
    return _in_order([node for operation in graph.operations for node in operation._inbound_nodes])


def calls_outside(graph: Any) -> list[Node]:
    """Calls of operations that the graph and its nested graphs do not have, and that read what theirs give.

    They belong to other models over the same layers, such as another head, and stand in data-flow order.
    """
    operations = [operation for inner in graphs_within(graph) for operation in inner.operations]
    inside = {id(operation) for operation in operations}
    found: dict[int, Node] = {}
    for operation in operations:
        for node in operation._outbound_nodes:
            if id(node.operation) not in inside and id(node) not in found:
                found[id(node)] = node
                operations.append(node.operation)
    return _in_order(list(found.values()))


def _in_order(pending: list[Node]) -> list[Node]:
    """Calls, each after those of them whose outputs it reads."""
    made_here = {id(tensor) for node in pending for tensor in node.outputs}
    ordered: list[Node] = []
    done: set[int] = set()
    while pending:
        waiting = []
        for node in pending:
            needs = {id(tensor) for tensor in node.input_tensors} & made_here
            if needs <= done:
                ordered.append(node)
                done.update(id(tensor) for tensor in node.outputs)
            else:
                waiting.append(node)
        if len(waiting) == len(pending):
            raise RuntimeError(f"the calls of {[node.operation.name for node in pending]} form a cycle")
        pending = waiting
    return ordered


def arguments_of(node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call, symbolic tensors included."""
    return node.arguments.args, node.arguments.kwargs


def has_constants(node: Node) -> bool:
    """Whether a call reads arrays besides tensors of the graph."""
    leaves = keras.tree.flatten(arguments_of(node))
    return any(hasattr(leaf, "shape") and not isinstance(leaf, keras.KerasTensor) for leaf in leaves)


def arguments_with(node: Node, tensors: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As `arguments_of`, with other tensors in place of those of a call, in their order.

    `LEFT_OUT` leaves one out of the list that it is in, or of positional arguments.
    """
    following = iter(tensors)

    def replace(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return next(following)
        if isinstance(value, (list, tuple)):
            found = [item for item in map(replace, value) if item is not LEFT_OUT]
            return type(value)(found) if type(value) in (list, tuple) else type(value)(*found)
        if isinstance(value, dict):
            return type(value)((key, replace(value[key])) for key in sorted(value))
        return value

    args, kwargs = arguments_of(node)
    return replace(args), replace(kwargs)


def raw_operation_name(operation: Operation) -> str | None:
    """Class name of a raw `keras.ops` operation (`Add`, `Relu`, ...), or None for a layer or a user's class."""
    kind = type(operation)
    return kind.__name__ if kind.__module__.startswith("keras.src.ops.") else None
