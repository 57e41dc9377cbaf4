"""Layers: their variables by name, what they were built with, and other methods for a while."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np

_INHERITED = object()


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


def has_parameters(layer: Any) -> bool:
    """Whether the layer, or one within it, has variables that training could change, be it frozen or not."""
    return any(within._trainable_variables for within in layer._flatten_layers())


def array_initializers(layer: Any) -> dict[str, Any]:
    """The layer's initialisers that hold a value for each element, such as a table of word vectors, by attribute."""
    return {
        name: value
        for name, value in vars(layer).items()
        if name.endswith("_initializer") and isinstance(value, keras.initializers.Constant) and np.ndim(value.value) > 0
    }


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
