"""Keeps an optimiser usable after its variables shrank."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoprune.models import keras_internals
from autoprune.surgery.slicing import take


def refresh_optimizer(model: Any, masks: Mapping[int, Mapping[int, np.ndarray]]) -> str:
    """Slice the optimiser's state as the model's variables were sliced.

    Must be called while the state still has the old shapes. State of any other shape (factored second moments)
    cannot be sliced: then the model gets a fresh optimiser with the same settings.

    Args:
        model: the model.
        masks: by `id` of a variable, for every axis that shrank the positions that stayed.

    Returns:
        `none` when there is no optimiser or it has no state, `sliced`, or `reset`.
    """
    optimizer = keras_internals.optimizer_of(model)
    if optimizer is None or not optimizer.built:
        return "none"
    slots = _slots(optimizer)
    sliceable = sum(len(of_variable) for of_variable in slots.values())
    scalars = sum(1 for variable in optimizer.variables if len(variable.shape) == 0)
    if sliceable + scalars < len(optimizer.variables):
        model.optimizer = keras_internals.fresh_optimizer(
            model, optimizer, keras_internals.variables_of_optimizer(optimizer)
        )
        return "reset"
    for variable in keras_internals.variables_of_optimizer(optimizer):
        for slot in slots[id(variable)] if id(variable) in masks else []:
            keras_internals.replace_value(slot, take(keras_internals.array_of(slot), masks[id(variable)]))
    keras_internals.renew_identities(optimizer)
    return "sliced"


def _slots(optimizer: Any) -> dict[int, list[Any]]:
    """By `id` of a model variable, the slots that can be sliced as it was: those of as many axes, none of size 1."""
    variables = keras_internals.variables_of_optimizer(optimizer)
    slots: dict[int, list[Any]] = {id(variable): [] for variable in variables}
    for aligned in keras_internals.slot_lists(optimizer):
        for variable, slot in zip(variables, aligned, strict=True):
            if len(slot.shape) == len(variable.shape) > 0:
                slots[id(variable)].append(slot)
    return slots
