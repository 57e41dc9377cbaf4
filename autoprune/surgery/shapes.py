"""Brings everything that Keras derived from the old widths up to date.

A built model remembers shapes in four places besides its variables: the symbolic tensors of the graph (what
`summary()` and saving read), the input specs that layers check, the shapes that layers were built with (what
loading a `.keras` file builds from), and the input layers of nested models. What else a layer derived is known of its
kind.
"""

from collections.abc import Iterable
from typing import Any

import keras

from autoprune.layers import exact_kind_of, kind_of
from autoprune.models import keras_internals


def refresh_shapes(graph: Any, edited: set[int], changed: set[int] | None = None) -> set[int]:
    """Recompute static shapes downstream of edited layers.

    Args:
        graph: the model's graph, as `keras_internals.graph_of` gives it.
        edited: `id` of every layer whose variables or attributes changed.
        changed: `id` of symbolic tensors whose shape has changed already; those that change are added.

    Returns:
        All that have changed.
    """
    changed = set() if changed is None else changed
    own = {id(node) for node in keras_internals.nodes_of(graph)}
    for node in list_calls(graph):
        operation = node.operation
        stale = any(id(tensor) in changed for tensor in node.input_tensors)
        if keras_internals.is_graph(operation):
            stale = _refresh_nested(operation, node, edited, changed) or stale
        if not stale and id(operation) not in edited:
            continue
        if stale and isinstance(operation, keras.Layer):
            _refresh_layer(operation, changed)
        try:
            _refresh_outputs(node, changed)
        except ValueError:
            # Another model shares the layer and feeds it channels that are still whole: that model is lost.
            if id(node) in own:
                raise
    return changed


def update_derived(layers: Iterable[Any]) -> None:
    """Renew what layers derived from their widths when they were built, as their kinds say."""
    for layer in layers:
        kind = exact_kind_of(layer)
        if kind is not None:
            kind.update_derived(layer)


def list_calls(graph: Any) -> list[Any]:
    """Every call of every operation of a graph, each after the calls whose outputs it reads.

    Calls that belong to other models are included: layers added to a Sequential model one by one have been called
    once for each intermediate model, and `summary()` shows the first of those calls.
    """
    return _in_order([node for operation in graph.operations for node in keras_internals.calls_of(operation)])


def calls_outside(graph: Any) -> list[Any]:
    """Calls of operations that the graph and its nested graphs do not have, and that read what theirs give.

    They belong to other models over the same layers, such as another head, and stand in data-flow order.
    """
    operations = [operation for inner in _graphs(graph) for operation in inner.operations]
    inside = {id(operation) for operation in operations}
    found: dict[int, Any] = {}
    for operation in operations:
        for node in keras_internals.readers_of(operation):
            if id(node.operation) not in inside and id(node) not in found:
                found[id(node)] = node
                operations.append(node.operation)
    return _in_order(list(found.values()))


def refresh_outside(graph: Any, changed: set[int]) -> list[str]:
    """Recompute static shapes of other models over the same layers, where tensors before them have changed.

    Args:
        graph: the model's graph, up to date.
        changed: `id` of the symbolic tensors whose shapes have changed; those that change are added.

    Returns:
        Names of the layers at which other models do not fit any more: they have weights for channels that are gone, or
        are cut and read channels that are still whole there.
    """
    graphs = _graphs(graph)
    own = {id(node) for inner in graphs for node in keras_internals.nodes_of(inner)}
    calls = [node for inner in graphs for operation in inner.operations for node in keras_internals.calls_of(operation)]
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


def _graphs(graph: Any) -> list[Any]:
    """A graph and those nested in it."""
    graphs = [graph]
    for inner in graphs:
        nested = [operation for operation in inner.operations if keras_internals.is_graph(operation)]
        graphs += [keras_internals.graph_of(operation) for operation in nested]
    return graphs


def _is_refused(node: Any) -> bool:
    """Whether the layer of a call expects other sizes than it is given."""
    spec = node.operation.input_spec if isinstance(node.operation, keras.Layer) else None
    if not isinstance(spec, keras.InputSpec) or not spec.axes or not node.input_tensors:
        return False
    return any(node.input_tensors[0].shape[axis] not in (None, size) for axis, size in spec.axes.items())


def _refresh_outputs(node: Any, changed: set[int]) -> None:
    """Recompute the static shapes of what a call gives; a `ValueError` says that its inputs do not fit."""
    args, kwargs = keras_internals.arguments_of(node)
    outputs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
    for tensor, fresh in zip(node.outputs, outputs, strict=True):
        if tuple(tensor.shape) != tuple(fresh.shape):
            keras_internals.set_tensor_shape(tensor, fresh.shape)
            changed.add(id(tensor))


def _in_order(pending: list[Any]) -> list[Any]:
    """Calls, each after those of them whose outputs it reads."""
    made_here = {id(tensor) for node in pending for tensor in node.outputs}
    ordered: list[Any] = []
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


def _refresh_nested(operation: Any, node: Any, edited: set[int], changed: set[int]) -> bool:
    """Bring a nested model up to date with what enters it; returns whether its outputs changed shape."""
    inner = keras_internals.graph_of(operation)
    for outer, entry in zip(keras_internals.entering_tensors(operation, node) or [], inner.inputs, strict=False):
        if outer is None:
            continue
        # Sizes that the nested model leaves open stay open: other callers have others.
        pairs = zip(outer.shape, entry.shape, strict=True)
        shape = tuple(own if own is None or size is None else size for size, own in pairs)
        if shape != tuple(entry.shape):
            keras_internals.set_tensor_shape(entry, shape)
            changed.add(id(entry))
            layer = keras_internals.maker_of(entry)
            if isinstance(layer, keras.layers.InputLayer):
                keras_internals.set_batch_shape(layer, shape)
    refresh_shapes(inner, edited, changed)
    # Against what the caller knows: another nested model may have changed tensors that both share.
    return any(
        own not in (None, size)
        for tensor, known in zip(inner.outputs, node.outputs, strict=True)
        for own, size in zip(tensor.shape, known.shape, strict=True)
    )


def _refresh_layer(layer: Any, changed: set[int]) -> None:
    """Update a layer's input spec and build shapes from the first of its calls whose inputs changed.

    Earlier calls may belong to other models, whose tensors are not this one's concern.
    """
    calls = keras_internals.calls_of(layer)
    call = next((call for call in calls if any(id(tensor) in changed for tensor in call.input_tensors)), None)
    if call is None:
        return
    first = tuple(call.input_tensors[0].shape)
    args, kwargs = keras_internals.arguments_of(call)
    built_with = keras_internals.build_shapes(layer)
    if built_with and len(built_with) == 1:
        inputs = args[0] if args else kwargs[keras_internals.call_arguments(layer)[0]]
        built_with = dict.fromkeys(built_with, keras.tree.map_structure(lambda tensor: tuple(tensor.shape), inputs))
    elif built_with:
        # Such as `query_shape` and `value_shape`, for arguments `query` and `value`.
        named = dict(zip(keras_internals.call_arguments(layer), args, strict=False)) | kwargs
        tensors = {name: named.get(name.removesuffix("_shape")) for name in built_with}
        built_with = built_with | {
            name: tuple(t.shape) for name, t in tensors.items() if isinstance(t, keras.KerasTensor)
        }
    _set_shapes(layer, first, built_with)
    while isinstance(layer, keras.layers.Wrapper):
        kind = kind_of(layer)
        first = first if kind is None else kind.shape_within(first)
        layer = layer.layer
        built_with = keras_internals.build_shapes(layer)
        _set_shapes(layer, first, built_with and dict.fromkeys(built_with, first))


def _set_shapes(layer: Any, first: tuple[int | None, ...], built_with: dict[str, Any] | None) -> None:
    """Let a layer expect a first input of this shape, and be built with these shapes when loaded."""
    if isinstance(layer.input_spec, keras.InputSpec) and not keras_internals.is_graph(layer):
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
    keras_internals.set_build_shapes(layer, built_with)
