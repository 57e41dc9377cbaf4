"""Layers and calls that run in another way for a while, and what running them changes besides what they give."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope

from autoprune.models.keras_internals.graph import Node, arguments_with

Tensor = Any
# Of a call and of tensors in place of those that it reads, see `arguments_with`: what it gives.
RunCall = Callable[[Node, Sequence[Tensor]], list[Tensor]]
# Runs the calls of a graph, given the values of its inputs by `id` of the symbolic tensor; adds those of its outputs.
RunCalls = Callable[[dict[int, Tensor], RunCall], None]
_INHERITED = object()


def attention_parts(layer: Any) -> dict[str, Any]:
    """The projections that a `MultiHeadAttention` layer is made of, by what they project."""
    parts = {"query": layer._query_dense, "key": layer._key_dense, "value": layer._value_dense}
    if layer._use_gate:
        parts["gate"] = layer._gate_dense
    return {**parts, "output": layer._output_dense}


def call_arguments(layer: Any) -> list[str]:
    """Names of the arguments of a layer's `call`, in order."""
    return list(inspect.signature(layer.call).parameters)


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
def overridden(name: str, replacements: Mapping[Any, Any]) -> Iterator[None]:
    """Within the block a method or attribute of some operations is another one; their classes are not touched."""
    before = [vars(operation).get(name, _INHERITED) for operation in replacements]
    for operation, value in replacements.items():
        object.__setattr__(operation, name, value)
    try:
        yield
    finally:
        for operation, value in zip(replacements, before, strict=True):
            if value is _INHERITED:
                object.__delattr__(operation, name)
            else:
                object.__setattr__(operation, name, value)


@contextmanager
def stand_in(pairs: Sequence[tuple[Any, Any]]) -> Iterator[keras.StatelessScope]:
    """Within the block tensors stand in for variables, also for their shapes, and collect what is assigned to them.

    `keras.StatelessScope` itself refuses tensors whose lengths are not known yet, which are None here.
    """
    scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
    before = [variable._shape for variable, _ in pairs]
    try:
        for variable, value in pairs:
            scope.state_mapping[id(variable)] = value
            variable._shape = tuple(value.shape)
        with scope:
            yield scope
    finally:
        for (variable, _), shape in zip(pairs, before, strict=True):
            variable._shape = shape


@contextmanager
def running(runs: Mapping[Any, RunCalls]) -> Iterator[None]:
    """Within the block these graphs, as `graph_of` gives them, run their calls in another way."""
    others = {graph: partial(_run_graph, graph, graph._run_through_graph, run) for graph, run in runs.items()}
    with overridden("_run_through_graph", others):
        yield


def _run_graph(
    graph: Any,
    original: Callable[..., Any],
    run: RunCalls,
    inputs: Any,
    operation_fn: Any = lambda operation: operation,
    call_fn: Any = None,
) -> Any:
    """Stands for a graph's own method, which still runs symbolic tensors."""
    given = keras.tree.flatten(inputs)
    if call_fn is not None or any(isinstance(tensor, keras.KerasTensor) for tensor in given):
        return original(inputs, operation_fn=operation_fn, call_fn=call_fn)

    def run_call(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
        args, kwargs = arguments_with(node, tensors)
        return keras.tree.flatten(operation_fn(node.operation)(*args, **kwargs))

    values = dict(zip(map(id, graph.inputs), given, strict=True))
    run(values, run_call)
    return keras.tree.map_structure(lambda tensor: values[id(tensor)], graph._outputs_struct)


class ChangesWithin:
    """Collects, apart from the `keras.StatelessScope` around, what is assigned and which losses are added in a block.

    Tensors that are made in a branch of a condition are of no use outside of it: they have to come out as its results.

    Attributes:
        scope: within it the block is run. Its `losses` are what layers have added to the loss.
    """

    def __init__(self) -> None:
        self._outer = get_stateless_scope()
        self.scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
        self.scope.state_mapping.update(self._outer.state_mapping)

    @property
    def changed(self) -> list[int]:
        """The `id` of the variables known outside that were assigned other values."""
        before = self._outer.state_mapping
        return [key for key, value in self.scope.state_mapping.items() if before.get(key, value) is not value]

    def values(self, *, outside: bool = False) -> list[Tensor]:
        """What they were assigned, or what they have outside."""
        state = self._outer.state_mapping if outside else self.scope.state_mapping
        return [state[key] for key in self.changed]

    def bring_out(self, model: Any, values: Sequence[Tensor], losses: Sequence[Tensor]) -> None:
        """Assign values, and add losses to the model, outside of the block."""
        self._outer.state_mapping.update(zip(self.changed, values, strict=True))
        for loss in losses:
            keras.Layer.add_loss(model, loss)  # A model with a graph refuses its own method.


def mask_of(tensor: Tensor) -> Tensor | None:
    """The mask that Keras has attached to a tensor, if any."""
    return getattr(tensor, "_keras_mask", None)


def attach_mask(tensor: Tensor, mask: Tensor | None) -> None:
    """Attach a mask to a tensor, as `mask_of` gives it."""
    if mask is not None:
        tensor._keras_mask = mask
