"""Takes calls out of a model's graph, and brings up to date what Keras derived from the old connections and widths.

A built model remembers shapes in four places besides its variables: the symbolic tensors of the graph (what
`summary()` and saving read), the input specs that layers check, the shapes that layers were built with (what
loading a `.keras` file builds from), and the input layers of nested models. What else a layer derived is known of its
kind.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
from keras.src.ops.function import map_graph
from keras.src.ops.symbolic_arguments import SymbolicArguments

from autoprune.models.keras_internals.graph import (
    LEFT_OUT,
    Node,
    arguments_of,
    arguments_with,
    calls_outside,
    entering_tensors,
    graph_of,
    graphs_by_path,
    graphs_within,
    has_constants,
    is_graph,
    list_calls,
    maker_of,
    models_within,
    nodes_of,
    operations_by_path,
)
from autoprune.models.keras_internals.running import call_arguments

Shape = tuple[int | None, ...]
# Of a wrapper and the shape of a tensor: the shape in which the wrapped layer sees it.
ShapeWithin = Callable[[Any, Shape], Shape]

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
        self._layers = [(graph, list(graph._layers), set(graph._tracker.stored_ids["layers"])) for graph in graphs]
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
            graph._tracker.stored_ids["layers"].clear()
            graph._tracker.stored_ids["layers"].update(tracked)
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
    before = nodes_of(graph)
    operations = graph.operations
    vars(graph).update(tables)
    # Operations know who reads them; calls of other models stay.
    own = nodes_of(graph)
    known = {id(node) for node in (*own, *before)}
    readers: dict[int, list[Node]] = defaultdict(list)
    for node in own:
        for tensor in node.input_tensors:
            readers[id(tensor._keras_history.operation)].append(node)
    for operation in graph.operations:
        others = [node for node in operation._outbound_nodes if id(node) not in known]
        operation._outbound_nodes[:] = [*readers[id(operation)], *others]
    remaining = {id(operation) for operation in graph.operations}
    for operation in operations:
        if id(operation) not in remaining:
            graph._tracker.untrack(operation)
    return changed, entering


class StaticShapes:
    """All that `refresh_shapes` and `refresh_outside` may change in a model, as it is now.

    Args:
        model: a built model.
    """

    def __init__(self, model: Any) -> None:
        graph = graph_of(model)
        layers = [found for found in operations_by_path(model).values() if isinstance(found, keras.Layer)]
        # A nested model derives its input spec from its inputs; setting it would fix it for good.
        self._specs = [(layer, layer.input_spec) for layer in layers if not is_graph(layer)]
        self._built = [(layer, layer._build_shapes_dict) for layer in layers]
        self._inputs = [(layer, layer.batch_shape) for layer in layers if isinstance(layer, keras.layers.InputLayer)]
        nodes = [node for inner in graphs_within(graph) for node in list_calls(inner)] + calls_outside(graph)
        self._tensors = [(tensor, tuple(tensor.shape)) for node in nodes for tensor in node.outputs]

    def restore(self) -> None:
        """Put them back."""
        for layer, spec in self._specs:
            layer.input_spec = spec
        for layer, shapes in self._built:
            layer._build_shapes_dict = shapes
        for layer, shape in self._inputs:
            layer._batch_shape = shape
        for tensor, shape in self._tensors:
            tensor._shape = shape


def refresh_shapes(
    graph: Any, edited: set[int], shape_within: ShapeWithin, changed: set[int] | None = None
) -> set[int]:
    """Recompute static shapes downstream of edited layers.

    Args:
        graph: the model's graph, as `graph_of` gives it.
        edited: `id` of every layer whose variables or attributes changed.
        shape_within: tells in which shape a wrapped layer sees a tensor.
        changed: `id` of symbolic tensors whose shape has changed already; those that change are added.

    Returns:
        All that have changed.
    """
    changed = set() if changed is None else changed
    own = {id(node) for node in nodes_of(graph)}
    for node in list_calls(graph):
        operation = node.operation
        stale = any(id(tensor) in changed for tensor in node.input_tensors)
        if is_graph(operation):
            stale = _refresh_nested(operation, node, edited, shape_within, changed) or stale
        if not stale and id(operation) not in edited:
            continue
        if stale and isinstance(operation, keras.Layer):
            _refresh_layer(operation, shape_within, changed)
        try:
            _refresh_outputs(node, changed)
        except ValueError:
            # Another model shares the layer and feeds it channels that are still whole: that model is lost.
            if id(node) in own:
                raise
    return changed


def refresh_outside(graph: Any, changed: set[int]) -> list[str]:
    """Recompute static shapes of other models over the same layers, where tensors before them have changed.

    Args:
        graph: the model's graph, up to date.
        changed: `id` of the symbolic tensors whose shapes have changed; those that change are added.

    Returns:
        Names of the layers at which other models do not fit any more: they have weights for channels that are gone, or
        are cut and read channels that are still whole there.
    """
    graphs = graphs_within(graph)
    own = {id(node) for inner in graphs for node in nodes_of(inner)}
    calls = [node for inner in graphs for operation in inner.operations for node in operation._inbound_nodes]
    lost = [node.operation.name for node in calls if id(node) not in own and _is_refused(node)]
    for node in calls_outside(graph):
        if not any(id(tensor) in changed for tensor in node.input_tensors):
            continue
        fits = not (isinstance(node.operation, keras.Layer) and node.operation.weights)
        try:
            if fits:
                _refresh_outputs(node, changed)
        except (ValueError, TypeError, RuntimeError):  # each backend has another one
            fits = False
        if not fits:
            lost.append(node.operation.name)
    return list(dict.fromkeys(lost))


def list_refused_calls(models: Iterable[Any]) -> list[str]:
    """Names of the layers in models with a graph, nested ones included, that expect other sizes than they get."""
    graphs = [graph for model in models if is_graph(model) for graph in graphs_within(graph_of(model))]
    names = [node.operation.name for graph in graphs for node in nodes_of(graph) if _is_refused(node)]
    return list(dict.fromkeys(names))


def _is_refused(node: Any) -> bool:
    """Whether the layer of a call expects other sizes than it is given."""
    spec = node.operation.input_spec if isinstance(node.operation, keras.Layer) else None
    if not isinstance(spec, keras.InputSpec) or not spec.axes or not node.input_tensors:
        return False
    return any(node.input_tensors[0].shape[axis] not in (None, size) for axis, size in spec.axes.items())


def _refresh_outputs(node: Any, changed: set[int]) -> None:
    """Recompute the static shapes of what a call gives; a `ValueError` says that its inputs do not fit."""
    args, kwargs = arguments_of(node)
    outputs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
    for tensor, fresh in zip(node.outputs, outputs, strict=True):
        if tuple(tensor.shape) != tuple(fresh.shape):
            tensor._shape = tuple(fresh.shape)
            changed.add(id(tensor))


def _refresh_nested(operation: Any, node: Any, edited: set[int], shape_within: ShapeWithin, changed: set[int]) -> bool:
    """Bring a nested model up to date with what enters it; returns whether its outputs changed shape."""
    inner = graph_of(operation)
    for outer, entry in zip(entering_tensors(operation, node) or [], inner.inputs, strict=False):
        if outer is None:
            continue
        # Sizes that the nested model leaves open stay open: other callers have others.
        pairs = zip(outer.shape, entry.shape, strict=True)
        shape = tuple(own if own is None or size is None else size for size, own in pairs)
        if shape != tuple(entry.shape):
            entry._shape = shape
            changed.add(id(entry))
            layer = maker_of(entry)
            if isinstance(layer, keras.layers.InputLayer):
                layer._batch_shape = shape
    refresh_shapes(inner, edited, shape_within, changed)
    # Against what the caller knows: another nested model may have changed tensors that both share.
    return any(
        own not in (None, size)
        for tensor, known in zip(inner.outputs, node.outputs, strict=True)
        for own, size in zip(tensor.shape, known.shape, strict=True)
    )


def _refresh_layer(layer: Any, shape_within: ShapeWithin, changed: set[int]) -> None:
    """Update a layer's input spec and build shapes from the first of its calls whose inputs changed.

    Earlier calls may belong to other models, whose tensors are not this one's concern.
    """
    call = next(
        (call for call in layer._inbound_nodes if any(id(tensor) in changed for tensor in call.input_tensors)), None
    )
    if call is None:
        return
    first = tuple(call.input_tensors[0].shape)
    args, kwargs = arguments_of(call)
    built_with = layer._build_shapes_dict
    if built_with and len(built_with) == 1:
        inputs = args[0] if args else kwargs[call_arguments(layer)[0]]
        built_with = dict.fromkeys(built_with, keras.tree.map_structure(lambda tensor: tuple(tensor.shape), inputs))
    elif built_with:
        # Such as `query_shape` and `value_shape`, for arguments `query` and `value`.
        named = dict(zip(call_arguments(layer), args, strict=False)) | kwargs
        tensors = {name: named.get(name.removesuffix("_shape")) for name in built_with}
        built_with = built_with | {
            name: tuple(t.shape) for name, t in tensors.items() if isinstance(t, keras.KerasTensor)
        }
    _set_shapes(layer, first, built_with)
    while isinstance(layer, keras.layers.Wrapper):
        first = shape_within(layer, first)
        layer = layer.layer
        built_with = layer._build_shapes_dict
        _set_shapes(layer, first, built_with and dict.fromkeys(built_with, first))


def _set_shapes(layer: Any, first: Shape, built_with: dict[str, Any] | None) -> None:
    """Let a layer expect a first input of this shape, and be built with these shapes when loaded."""
    if isinstance(layer.input_spec, keras.InputSpec) and not is_graph(layer):
        # The same demands on an input, with the new sizes.
        spec = layer.input_spec
        layer.input_spec = keras.InputSpec(
            dtype=spec.dtype,
            shape=None if spec.shape is None else first,
            ndim=spec.ndim,
            max_ndim=spec.max_ndim,
            min_ndim=spec.min_ndim,
            axes={axis: first[axis] for axis in spec.axes} if spec.axes else spec.axes,
            allow_last_axis_squeeze=spec.allow_last_axis_squeeze,
        )
    layer._build_shapes_dict = built_with
