"""Remembers a model before surgery, so that it can be put back bit by bit."""

from typing import Any

import keras

from autoprune.models import keras_internals
from autoprune.surgery.shapes import calls_outside, list_calls, update_derived


class Snapshot:
    """Everything that surgery, batch-norm recalibration and training may change in a model.

    It holds the old variables alive: drop it to free them.

    Args:
        model: a built model.
        attributes: (operation path, attribute) pairs that surgery may set.
    """

    def __init__(self, model: Any, attributes: set[tuple[str, str]]) -> None:
        keras_internals.collect_state(model)
        self._model = model
        self._variables = [_remember(variable) for variable in model.variables]
        operations = keras_internals.operations_by_path(model)
        layers = {path: found for path, found in operations.items() if isinstance(found, keras.Layer)}
        self._attributes = [
            (operations[path], name, keras_internals.attribute_state(operations[path], name))
            for path, name in sorted(attributes)
        ]
        # A nested model derives its input spec from its inputs; setting it would fix it for good.
        self._specs = [(layer, layer.input_spec) for layer in layers.values() if not keras_internals.is_graph(layer)]
        self._classes = [(found, type(found)) for found in (model, *layers.values()) if keras_internals.is_graph(found)]
        self._built = [(layer, keras_internals.build_shapes(layer)) for layer in layers.values()]
        self._initializers = [
            (layer, name, value)
            for layer in layers.values()
            for name, value in keras_internals.array_initializers(layer).items()
        ]
        self._inputs = [
            (layer, layer.batch_shape) for layer in layers.values() if isinstance(layer, keras.layers.InputLayer)
        ]
        graph = keras_internals.graph_of(model)
        outside = [tensor for node in calls_outside(graph) for tensor in node.outputs]
        self._tensors = _tensors(graph) + [(tensor, tuple(tensor.shape)) for tensor in outside]
        self._optimizer = keras_internals.optimizer_of(model)
        slots = self._optimizer.variables if self._optimizer is not None else []
        self._slots = [_remember(variable) for variable in slots]
        self._optimizer_built = self._optimizer is not None and self._optimizer.built

    def restore(self) -> None:
        """Put the model back: variables, attributes, shapes and optimiser state are what they were, to the bit."""
        keras_internals.collect_state(self._model)
        for variable, stored, value in (*self._variables, *self._slots):
            keras_internals.put_back(variable, stored, value)
        for operation, name, state in self._attributes:
            keras_internals.restore_attribute(operation, name, state)
        for found, kind in self._classes:
            keras_internals.set_class(found, kind)
        for layer, spec in self._specs:
            layer.input_spec = spec
        for layer, shapes in self._built:
            keras_internals.set_build_shapes(layer, shapes)
        for layer, name, value in self._initializers:
            setattr(layer, name, value)
        for layer, shape in self._inputs:
            keras_internals.set_batch_shape(layer, shape)
        for tensor, shape in self._tensors:
            keras_internals.set_tensor_shape(tensor, shape)
        update_derived(layer for layer, _ in self._built)
        self._restore_optimizer()
        keras_internals.renew_compiled_functions(self._model)

    def _restore_optimizer(self) -> None:
        """The optimiser of then, with the state of then; one that has got state since starts anew."""
        now = keras_internals.optimizer_of(self._model)
        if self._optimizer_built:
            if now is not self._optimizer:
                self._model.optimizer = self._optimizer
            keras_internals.renew_identities(self._optimizer)
            return
        optimizer = now if self._optimizer is None else self._optimizer
        if optimizer is not None and optimizer.built:
            optimizer = keras_internals.fresh_optimizer(self._model, optimizer)
        if optimizer is not now:
            self._model.optimizer = optimizer


def _remember(variable: Any) -> tuple[Any, Any, Any]:
    """The variable, its storage, and its value: batch norm overwrites storage that surgery left alone.

    The value is a tensor that nothing changes: TensorFlow copies the buffer when the variable is next written, on JAX
    it is a copy from the start.
    """
    return variable, keras_internals.storage(variable), keras_internals.value_of(variable)


def _tensors(graph: Any) -> list[tuple[Any, tuple[int | None, ...]]]:
    """Every symbolic tensor of a graph and its nested graphs, with its shape."""
    found = []
    for node in list_calls(graph):
        found += [(tensor, tuple(tensor.shape)) for tensor in node.outputs]
        if keras_internals.is_graph(node.operation):
            found += _tensors(keras_internals.graph_of(node.operation))
    return found
