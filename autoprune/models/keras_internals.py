"""The only file that touches Keras's private attributes. Written against Keras 3.15.

Everything here is a small verb on a Keras object; the reasons and the order of calls are in the callers. It stands
left of `autoprune.graph` in the import order because walking the nodes of a model needs it as much as surgery does.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from autoprune.errors import ModelError

Node = Any
Operation = Any


# ---------------------------------------------------------------------------------------------- graph


def graph_of(model: Any) -> Any:
    """The `keras.Function` that holds the model's operations and nodes.

    Raises:
        ModelError: the model is subclassed, or a Sequential model that has no input shape yet.
    """
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise ModelError(
                f"The Sequential model '{model.name}' has no graph yet. Call it on data once, or put a "
                "keras.Input(shape) first, then prune it."
            )
        return model._functional
    functional_class = _functional_class()
    if not isinstance(model, functional_class):
        raise ModelError(
            f"'{getattr(model, 'name', model)}' ({type(model).__name__}) is a subclassed model: its layers can be "
            "listed, but what flows between them cannot. Write its forward pass with the functional API "
            "(keras.Model(inputs, outputs)) or as keras.Sequential, load the weights into that, and prune that."
        )
    if type(model).call is not functional_class.call:
        raise ModelError(
            f"The model '{model.name}' ({type(model).__name__}) is built with the functional API but overrides "
            "`call`, so its graph is not what it computes. Remove the override to prune it."
        )
    return model


def _functional_class() -> type:
    from keras.src.models.functional import Functional

    return Functional


def input_structure(model: Any) -> Any:
    """The model's symbolic inputs in the structure in which it takes them: a tensor, a list or a dict."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def is_graph(operation: Operation) -> bool:
    """Whether the operation is itself a model with a graph (a nested Functional or built Sequential)."""
    if isinstance(operation, keras.Sequential):
        return operation._functional is not None
    return isinstance(operation, _functional_class()) and type(operation).call is _functional_class().call


def nodes_of(graph: Any) -> list[Node]:
    """The calls that make up one model, in data-flow order, inputs first; side by side as `operations` lists them."""
    place = {id(operation): number for number, operation in enumerate(graph.operations)}
    ordered = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        ordered.extend(sorted(graph._nodes_by_depth[depth], key=lambda node: place[id(node.operation)]))
    return ordered


def maker_of(tensor: Any) -> Operation:
    """The operation whose call made a symbolic tensor."""
    return tensor._keras_history.operation


def operations_by_path(model: Any) -> dict[str, Operation]:
    """Every operation of a model by its path: `outer/inner` for those of nested models and for layers within layers."""
    found: dict[str, Operation] = {}
    _collect(graph_of(model).operations, "", found)
    return found


def layers_by_path(model: Any) -> dict[str, Any]:
    """As `operations_by_path`, without raw `keras.ops` operations."""
    return {path: found for path, found in operations_by_path(model).items() if isinstance(found, keras.Layer)}


def _collect(operations: Sequence[Operation], prefix: str, found: dict[str, Operation]) -> None:
    for operation in operations:
        path = prefix + operation.name
        found[path] = operation
        if is_graph(operation):
            _collect(graph_of(operation).operations, f"{path}/", found)
        elif isinstance(operation, keras.Layer):
            _collect(operation._layers, f"{path}/", found)


def application_class(module: str, name: str) -> type:
    """A layer class that `keras.applications` defines for itself and exports nowhere, such as ConvNeXt's LayerScale."""
    return getattr(importlib.import_module(f"keras.src.applications.{module}"), name)


def calls_of(operation: Operation) -> list[Node]:
    """Every symbolic call of an operation, also those that belong to other models."""
    return list(operation._inbound_nodes)


def arguments_of(node: Node) -> tuple[tuple, dict]:
    """Positional and keyword arguments of a call, symbolic tensors included."""
    return node.arguments.args, node.arguments.kwargs


def raw_operation_name(operation: Operation) -> str | None:
    """Class name of a raw `keras.ops` operation (`Add`, `Relu`, ...), or None for a layer or a user's class."""
    kind = type(operation)
    return kind.__name__ if kind.__module__.startswith("keras.src.ops.") else None


def set_tensor_shape(tensor: Any, shape: Sequence[int | None]) -> None:
    """Change the static shape of a symbolic tensor in place, so that every node that holds it sees the change."""
    tensor._shape = tuple(shape)


# ---------------------------------------------------------------------------------------------- attributes


def read_attribute(operation: Operation, name: str) -> Any:
    """An attribute of an operation that holds a number of channels.

    Two raw operations keep theirs in another form, which is brought into this one: the pieces of a `Split` are its
    `indices_or_sections` as a tuple of indices, the bounds of a `GetItem` its `start` and `stop`, one per input axis.
    """
    kind = raw_operation_name(operation)
    if kind == "GetItem":
        return tuple(getattr(part, name, None) for part in key_per_axis(calls_of(operation)[0]))
    value = getattr(operation, name)
    if kind == "Split" and isinstance(value, int):
        size = calls_of(operation)[0].input_tensors[0].shape[operation.axis] // value
        return tuple(size * number for number in range(1, value))
    return value


def write_attribute(operation: Operation, name: str, value: Any) -> None:
    """Set what `read_attribute` reads, wherever Keras keeps it, so that a saved file has it too."""
    if raw_operation_name(operation) == "GetItem":
        _write_bounds(calls_of(operation)[0], name, value)
    else:
        restore_attribute(operation, name, (value, value))


def attribute_state(operation: Operation, name: str) -> Any:
    """What `restore_attribute` needs to put an attribute back exactly as it was written."""
    if raw_operation_name(operation) == "GetItem":
        return calls_of(operation)[0].arguments
    return getattr(operation, name), _saved_arguments(operation).get(name)


def restore_attribute(operation: Operation, name: str, state: Any) -> None:
    """Put back what `attribute_state` took."""
    if raw_operation_name(operation) == "GetItem":
        calls_of(operation)[0].arguments = state
        return
    value, saved = state
    setattr(operation, name, value)
    if name in _saved_arguments(operation):
        _saved_arguments(operation)[name] = saved


def _saved_arguments(operation: Operation) -> dict[str, Any]:
    """The constructor's arguments, from which raw operations and simple layers make their config."""
    saved = getattr(operation, "_auto_config", None)
    return {} if saved is None else saved.config


def key_per_axis(node: Node) -> list[Any]:
    """The key of a `GetItem` call with one entry, a slice or an index, for every axis of its input; no new axes."""
    tensor, key = _item(node)
    key = [part for part in (key if isinstance(key, (tuple, list)) else (key,)) if part is not None]
    places = [place for place, part in enumerate(key) if part is Ellipsis]
    place = places[0] if places else len(key)
    before, after = key[:place], key[place + 1 :]
    return [*before, *[slice(None)] * (len(tensor.shape) - len(before) - len(after)), *after]


def key_without_bounds(node: Node) -> tuple:
    """The key of a `GetItem` call with every slice replaced by a whole axis: what is left moves axes only."""
    parts = [0 if isinstance(part, int) else slice(None) for part in key_per_axis(node)]
    return _with_new_axes(_item(node)[1], parts)


def _item(node: Node) -> tuple[Any, Any]:
    args, kwargs = arguments_of(node)
    named = dict(zip(("x", "key"), args, strict=False)) | kwargs
    return named["x"], named["key"]


def _write_bounds(node: Node, name: str, bounds: Sequence[int | None]) -> None:
    """Write the `start` or `stop` of the slices of a `GetItem` call; axes without new axes stay where they are."""
    from keras.src.ops.symbolic_arguments import SymbolicArguments

    tensor, key = _item(node)
    old = key_per_axis(node)
    entries = []
    for part, bound in zip(old, bounds, strict=True):
        if isinstance(part, slice):
            start, stop = (bound, part.stop) if name == "start" else (part.start, bound)
            part = slice(start, stop, part.step)
        entries.append(part)
    node.arguments = SymbolicArguments(tensor, _with_new_axes(key, entries))


def _with_new_axes(key: Any, entries: list[Any]) -> tuple:
    """Put the new axes (None) of a key between entries that have one for every axis."""
    parts = key if isinstance(key, (tuple, list)) else (key,)
    after_ellipsis = sum(part is not None for part in parts[parts.index(Ellipsis) + 1 :]) if Ellipsis in parts else 0
    result, rest = [], list(entries)
    for part in parts:
        if part is None:
            result.append(None)
        elif part is Ellipsis:
            while len(rest) > after_ellipsis:
                result.append(rest.pop(0))
        else:
            result.append(rest.pop(0))
    return (*result, *rest)


# ---------------------------------------------------------------------------------------------- layers


def layer_variable(layer: Any, name: str) -> Any:
    """The variable that the public name of a layer stands for (`kernel` is stored as `_kernel` in some layers).

    Raises:
        AttributeError: the layer has no such variable.
    """
    for attribute in (f"_{name}", name):
        value = vars(layer).get(attribute)
        if isinstance(value, keras.Variable):
            return value
    raise AttributeError(f"layer '{layer.name}' has no variable '{name}'")


def has_variable(layer: Any, name: str) -> bool:
    """Whether `layer_variable` would find one."""
    return any(isinstance(vars(layer).get(key), keras.Variable) for key in (f"_{name}", name))


def attention_parts(layer: Any) -> dict[str, Any]:
    """The projections that a `MultiHeadAttention` layer is made of, by what they project."""
    parts = {"query": layer._query_dense, "key": layer._key_dense, "value": layer._value_dense}
    if layer._use_gate:
        parts["gate"] = layer._gate_dense
    return {**parts, "output": layer._output_dense}


def call_arguments(layer: Any) -> list[str]:
    """Names of the arguments of a layer's `call`, in order."""
    return list(inspect.signature(layer.call).parameters)


def build_shapes(layer: Any) -> dict[str, Any] | None:
    """The shapes that the layer was built with, as written to a `.keras` file."""
    return layer._build_shapes_dict


def set_build_shapes(layer: Any, shapes: dict[str, Any] | None) -> None:
    """Replace what `build_shapes` returns."""
    layer._build_shapes_dict = shapes


def set_batch_shape(input_layer: Any, shape: Sequence[int | None]) -> None:
    """Change the shape that an input layer expects and saves."""
    input_layer._batch_shape = tuple(shape)


@contextmanager
def batch_statistics_only(layers: Sequence[Any]) -> Iterator[None]:
    """Within the block these layers run as in training whatever the model's mode, the others as they are told.

    Batch norm then normalises by, and collects, the statistics of each batch while dropout and random augmentation
    stay off.
    """

    def in_training(layer: Any) -> Callable[..., Any]:
        original = layer.call
        return lambda *args, **kwargs: original(*args, **{**kwargs, "training": True})

    with overridden("call", {layer: in_training(layer) for layer in layers}):
        yield


@contextmanager
def overridden(method: str, replacements: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Within the block a method of some layers is another function; the layers' classes are not touched."""
    for layer, function in replacements.items():
        object.__setattr__(layer, method, function)
    try:
        yield
    finally:
        for layer in replacements:
            object.__delattr__(layer, method)


# ---------------------------------------------------------------------------------------------- variables


def storage(variable: Any) -> Any:
    """The backend's own variable or array behind a `keras.Variable`."""
    return variable._value


def value_of(variable: Any) -> Any:
    """The present value as a tensor of the backend, which later changes of the variable do not reach."""
    stored = variable._value
    return stored.read_value() if hasattr(stored, "read_value") else stored


def set_storage(variable: Any, stored: Any) -> None:
    """Put storage taken by `storage` back; the `keras.Variable` keeps its identity, path and owners."""
    variable._value = stored
    _refresh_shape(variable)


def replace_value(variable: Any, value: np.ndarray) -> None:
    """Give a variable new storage of another shape.

    The `keras.Variable` object stays: layers that share it go on sharing it, an optimiser that knows it by identity
    still does, and its path, regulariser, constraint and trainable flag are untouched. The old storage is freed with
    its last reference.
    """
    dtype = variable.dtype
    variable._initialize(keras.ops.convert_to_tensor(value, dtype=dtype))
    _refresh_shape(variable)


def _refresh_shape(variable: Any) -> None:
    shape = tuple(variable._value.shape)
    variable._shape = shape
    variable._ndim = len(shape)


# ---------------------------------------------------------------------------------------------- models


def forget_compiled_functions(model: Any) -> None:
    """Drop compiled train, test and predict functions: they hold the old variables alive and the old shapes."""
    model.train_function = None
    model.test_function = None
    model.predict_function = None
    if hasattr(model, "_jax_state"):
        model._jax_state = None


def forget_training(model: Any) -> None:
    """Undo `compile`: the saved file then holds no optimiser state and needs none of our losses to load."""
    forget_compiled_functions(model)
    model.compiled = False
    model.optimizer = None
    model._compile_config = None
    model._compile_loss = None
    model._compile_metrics = None
    model._loss_tracker = None


def optimizer_of(model: Any) -> Any:
    """The optimiser that the model was compiled with, or None."""
    return getattr(model, "optimizer", None)


def slot_lists(optimizer: Any) -> list[list[Any]]:
    """The optimiser's per-variable state: lists in the order of its trainable variables (momenta, velocities, ...)."""
    count = len(optimizer._trainable_variables)
    lists = []
    for name, value in vars(optimizer).items():
        if name in ("_variables", "_trainable_variables") or not isinstance(value, list):
            continue
        if len(value) == count and all(isinstance(slot, keras.Variable) for slot in value):
            lists.append(value)
    return lists


def tracked_variables(optimizer: Any) -> list[Any]:
    """The model variables that the optimiser was built for."""
    return list(optimizer._trainable_variables)


def renew_identities(optimizer: Any) -> None:
    """Let an optimiser know its variables again: the TensorFlow backend knows them by their storage."""
    variables = optimizer._trainable_variables
    optimizer._trainable_variables_indices = {optimizer._var_key(v): i for i, v in enumerate(variables)}
