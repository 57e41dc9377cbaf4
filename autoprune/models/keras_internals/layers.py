"""Layers: what they are made of, and other methods and values for a while."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras

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
def inference_only(model: Any) -> Iterator[None]:
    """Within the block Keras exports the model as it runs in inference.

    Told nothing, as Keras's export does it, layers choose for themselves, and those that augment images augment.
    """
    with overridden("__call__", {model: partial(model.__call__, training=False)}):
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
