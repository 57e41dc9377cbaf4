"""Remembers a model before surgery, so that it can be put back bit by bit."""

from typing import Any

import keras

from autoprune.layers import update_derived
from autoprune.models import keras_internals


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
        self._variables = keras_internals.remember(model.variables)
        operations = keras_internals.operations_by_path(model)
        places = [(operations[path], name) for path, name in sorted(attributes)]
        self._attributes = keras_internals.attribute_states(places)
        self._layers = [found for found in operations.values() if isinstance(found, keras.Layer)]
        self._classes = [(found, type(found)) for _, found in keras_internals.models_within(model)]
        self._initializers = keras_internals.array_initializers(self._layers)
        self._shapes = keras_internals.StaticShapes(model)
        self._wiring = keras_internals.Wiring(model)
        self._optimizer = keras_internals.optimizer_of(model)
        slots = self._optimizer.variables if self._optimizer is not None else []
        self._slots = keras_internals.remember(slots)
        self._lists = {} if self._optimizer is None else keras_internals.optimizer_lists(self._optimizer)
        self._optimizer_built = self._optimizer is not None and self._optimizer.built

    def restore(self) -> None:
        """Put the model back, to the bit: variables, attributes, connections, shapes and the optimiser's state."""
        keras_internals.collect_state(self._model)
        self._wiring.restore()
        keras_internals.put_back([*self._variables, *self._slots])
        keras_internals.restore_attributes(self._attributes)
        for found, kind in self._classes:
            keras_internals.set_class(found, kind)
        for layer, name, value in self._initializers:
            setattr(layer, name, value)
        self._shapes.restore()
        update_derived(self._layers)
        self._restore_optimizer()
        keras_internals.renew_compiled_functions(self._model)

    def _restore_optimizer(self) -> None:
        """The optimiser of then, with the state of then; one that has got state since starts anew."""
        now = keras_internals.optimizer_of(self._model)
        if self._optimizer_built:
            if now is not self._optimizer:
                self._model.optimizer = self._optimizer
            keras_internals.set_optimizer_lists(self._optimizer, self._lists)
            keras_internals.renew_identities(self._optimizer)
            return
        optimizer = now if self._optimizer is None else self._optimizer
        if optimizer is not None and optimizer.built:
            optimizer = keras_internals.fresh_optimizer(self._model, optimizer)
        if optimizer is not now:
            self._model.optimizer = optimizer
