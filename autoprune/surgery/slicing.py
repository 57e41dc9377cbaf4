"""From the kept channels of groups to the kept positions of axes, and the cut of all that has these axes."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.graph.branches import is_within
from autoprune.models import keras_internals
from autoprune.records import Branch, ChannelGroup, Member, Plan, VariableChange

Masks = dict[int, np.ndarray]


@dataclass
class Slices:
    """Which positions stay.

    Attributes:
        variables: by (layer path, variable), for every axis that shrinks a mask of the positions that stay.
        values: by (operation path, attribute), likewise for attributes with a value for each position.
        counts: by (operation path, attribute), for every place in the attribute the number of positions that stay.
    """

    variables: dict[tuple[str, str], Masks] = field(default_factory=dict)
    values: dict[tuple[str, str], Masks] = field(default_factory=dict)
    counts: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)

    @property
    def paths(self) -> set[str]:
        """Of all operations that change."""
        return {path for path, _ in (*self.variables, *self.values, *self.counts)}


def slices_for(groups: Iterable[ChannelGroup], plan: Plan, branches: Iterable[Branch] = ()) -> Slices:
    """Combine the groups: a position stays when every group that owns it keeps its channel.

    Of the branches those that the plan drops take their positions behind concatenations with them, and layers that
    leave with one are not cut.
    """
    masks: dict[tuple[str, str, int, str], np.ndarray] = {}
    dropped = [branch for branch in branches if branch.name in plan.dropped]
    gone = {path for branch in dropped for path in branch.operations}
    pairs: list[tuple[Member, np.ndarray]] = []
    for group in groups:
        if group.name not in plan.kept or len(plan.kept[group.name]) == group.size:
            continue
        # One more entry, for positions of other groups: index -1 finds it.
        keeps = np.zeros(group.size + 1, bool)
        keeps[plan.kept[group.name]] = True
        keeps[-1] = True
        pairs.extend((member, keeps[member.channels]) for member in group.members)
    pairs.extend((member, member.channels < 0) for branch in dropped for member in branch.members)
    for member, mask in pairs:
        if gone and is_within(member.layer, gone):
            continue
        # A variable is cut alike whatever its axes are for.
        kind = "variable" if member.role in ("produces", "follows", "consumes") else str(member.role)
        key = (member.layer, member.name, member.axis, kind)
        masks[key] = masks[key] & mask if key in masks else mask
    slices = Slices()
    for (layer, name, axis, kind), mask in masks.items():
        if kind == "counts":
            slices.counts.setdefault((layer, name), {})[axis] = int(mask.sum())
        else:
            table = slices.values if kind == "per_channel" else slices.variables
            table.setdefault((layer, name), {})[axis] = mask
    return slices


def cut_variables(operations: Mapping[str, Any], slices: Slices) -> tuple[list[VariableChange], dict[int, Masks]]:
    """Give variables new storage.

    Returns:
        What changed, and by `id` of a variable the positions that stayed.
    """
    variables = keras_internals.variables_at(operations, slices.variables)
    shapes = keras_internals.slice_variables(variables, slices.variables.values())
    initializers = keras_internals.array_initializers(
        [operations[path] for path in {path for path, _ in slices.variables}]
    )
    with_values = {(id(layer), name): initializer for layer, name, initializer in initializers}
    changes = []
    for ((path, name), masks), (before, after) in zip(slices.variables.items(), shapes, strict=True):
        changes.append(VariableChange(path, name, before, after))
        # An initialiser with a value for each element goes into the saved file and must have the new shape.
        layer, attribute = operations[path], f"{name}_initializer"
        initializer = with_values.get((id(layer), attribute))
        if initializer is not None and np.shape(initializer.value) == before:
            cut = keras_internals.take(np.asarray(initializer.value), masks)
            setattr(layer, attribute, type(initializer)(cut))
    return changes, {id(variable): masks for variable, masks in zip(variables, slices.variables.values(), strict=True)}


def cut_attributes(operations: Mapping[str, Any], slices: Slices) -> None:
    """Cut attributes with a value for each position, and set those that count positions."""
    edits = []
    for (path, name), masks in slices.values.items():
        value = keras_internals.read_attribute(operations[path], name)
        kept = keras_internals.take(np.asarray(value), masks)
        edits.append((operations[path], name, kept if isinstance(value, np.ndarray) else type(value)(kept.tolist())))
    for (path, name), counts in slices.counts.items():
        if -1 in counts:
            value = counts[-1]
        else:
            old = keras_internals.read_attribute(operations[path], name)
            value = tuple(counts.get(place, number) for place, number in enumerate(old))
        edits.append((operations[path], name, value))
    keras_internals.write_attributes(edits)


def cut_optimizer(model: Any, masks: Mapping[int, Masks], gone: Collection[int] = ()) -> str:
    """Slice the optimiser's state as the model's variables were sliced, and drop that of variables that are gone.

    Must be called while the state still has the old shapes. State of any other shape (factored second moments)
    cannot be sliced: then the model gets a fresh optimiser with the same settings.

    Args:
        model: the model.
        masks: by `id` of a variable, for every axis that shrank the positions that stayed.
        gone: `id` of the variables that have left the model.

    Returns:
        `none` when there is no optimiser or it has no state, `sliced`, or `reset`.
    """
    optimizer = keras_internals.optimizer_of(model)
    if optimizer is None or not optimizer.built:
        return "none"
    variables = keras_internals.variables_of_optimizer(optimizer)
    # What can be sliced as a variable was: slots of as many axes, none of size 1.
    slots = [
        (slot, masks.get(id(variable)))
        for aligned in keras_internals.slot_lists(optimizer).values()
        for variable, slot in zip(variables, aligned, strict=True)
        if len(slot.shape) == len(variable.shape) > 0
    ]
    scalars = sum(1 for variable in optimizer.variables if len(variable.shape) == 0)
    if len(slots) + scalars < len(optimizer.variables):
        stay = [variable for variable in variables if id(variable) not in gone]
        model.optimizer = keras_internals.fresh_optimizer(model, optimizer, stay)
        return "reset"
    changed = [(slot, of_slot) for slot, of_slot in slots if of_slot is not None]
    keras_internals.slice_variables([slot for slot, _ in changed], [of_slot for _, of_slot in changed])
    keras_internals.drop_slots(optimizer, gone)
    keras_internals.renew_identities(optimizer)
    return "sliced"
