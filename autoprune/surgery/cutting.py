"""What a plan takes from a model, and how: positions of axes, branches, and the weights that take the means of gates.

Kept channels of groups become kept positions of axes, and all that has these axes is cut: variables, attributes, the
optimiser's state. Branches leave the graph. `surgeon.py` says in which order.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autoprune.errors import PlanError
from autoprune.graph.branches import find_merge, is_within
from autoprune.models import keras_internals
from autoprune.records import Branch, ChannelGroup, Member, Plan, VariableChange
from autoprune.registry import suggestion

Masks = dict[int, np.ndarray]
# By (layer path, variable), for every axis that is scaled a factor for each position, before anything is cut.
Factors = dict[tuple[str, str], dict[int, np.ndarray]]


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


def groups_without(groups: Iterable[ChannelGroup], branches: Iterable[Branch], plan: Plan) -> list[ChannelGroup]:
    """The groups as a model has them once a plan's branches are gone, which takes none of their channels.

    Args:
        groups: those of the model with all of its branches.
        branches: those of the same model.
        plan: keeps all channels.
    """
    groups, branches = list(groups), list(branches)
    slices = slices_for(groups, plan, branches).variables
    gone = {path for branch in branches if branch.name in plan.dropped for path in branch.operations}
    found = []
    for group in groups:
        members = []
        for member in group.members:
            mask = slices.get((member.layer, member.name), {}).get(member.axis)
            if not is_within(member.layer, gone):
                members.append(member if mask is None else replace(member, channels=member.channels[mask]))
        found.append(replace(group, members=tuple(members)))
    return found


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


def check_dropped(branches: Sequence[Branch], dropped: Collection[str]) -> None:
    """Refuse to drop what cannot go, by itself or together.

    Args:
        branches: all of the model's.
        dropped: names of those that shall go.

    Raises:
        PlanError: saying why, or which branch has a name like one that does not exist.
    """
    named = {branch.name: branch for branch in branches}
    for name in dropped:
        if name not in named:
            raise PlanError(f"The model has no branch '{name}'. {suggestion(name, named)}")
        if not named[name].removable:
            raise PlanError(f"The branch '{name}' cannot be dropped: it {named[name].reason}.")
    gone = {path for name in dropped for path in named[name].operations}
    together: dict[tuple[str, int], list[Branch]] = defaultdict(list)
    for name in dropped:
        if not is_within(named[name].merge, gone):
            together[named[name].merge, named[name].call].append(named[name])
    for (merge, _), of_merge in together.items():
        if {branch.operand for branch in of_merge} >= set(of_merge[0].needed):
            names = ", ".join(f"'{branch.name}'" for branch in of_merge)
            raise PlanError(f"Nothing enters '{merge}' without {names}: keep one of them.")


def drop_branches(model: Any, branches: Sequence[Branch]) -> tuple[list[Any], set[int]]:
    """Rewire the model so that the merges do without these operands, and all that only they need is gone.

    Args:
        model: the model that they were found in, with all of its connections.
        branches: those that go; together they can.

    Returns:
        The operations that read other tensors than before, and the `id` of those tensors.
    """
    graphs = keras_internals.graphs_by_path(model)
    gone = {path for branch in branches for path in branch.operations}
    operands: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for branch in branches:
        if is_within(branch.merge, gone):
            continue
        prefix, merge = find_merge(graphs, branch)
        operands[prefix][id(merge)].add(branch.operand)
    rewired, entering = [], set()
    for prefix, dropped in operands.items():
        changed, tensors = keras_internals.drop_operands(graphs[prefix], dropped)
        rewired += [node.operation for node in changed]
        entering |= {id(tensor) for tensor in tensors}
    return rewired, entering


def check_gate_means(branches: Sequence[Branch], plan: Plan) -> None:
    """Refuse a plan that drops gates without saying what replaces them.

    Raises:
        PlanError: the mean of a gate is missing, or cannot be one.
    """
    for branch in branches:
        if branch.kind != "gate" or branch.name not in plan.dropped:
            continue
        size = 1 + max(int(member.channels.max()) for member in branch.folds)
        mean = plan.gate_means.get(branch.name)
        if mean is None:
            raise PlanError(
                f"The plan drops the gate '{branch.name}' and has no mean to put in its place. Make it with images: "
                f"make_plan(model, {{'{branch.name}': 0}}, data=images)."
            )
        if np.shape(mean) != (size,) or not np.isfinite(mean).all() or np.min(mean) < 0:
            raise PlanError(
                f"The mean of a gate has a finite number of 0 or more for each channel: {size} for '{branch.name}'. "
                f"Received: shape {np.shape(mean)}, {str(np.asarray(mean))[:60]}"
            )


def fold_factors(dropped: Sequence[Branch], plan: Plan) -> Factors:
    """What the means of gates scale; nothing for gates within another branch that goes.

    Args:
        dropped: the branches that go.
        plan: has the means.
    """
    gone = {path for branch in dropped for path in branch.operations}
    factors: Factors = defaultdict(dict)
    for branch in dropped:
        for member in () if is_within(branch.merge, gone) else branch.folds:
            if not is_within(member.layer, gone):
                mean = np.asarray(plan.gate_means[branch.name], np.float32)
                factor = np.where(member.channels >= 0, mean[member.channels], np.float32(1))
                axes = factors[member.layer, member.name]
                axes[member.axis] = axes.get(member.axis, np.float32(1)) * factor
    return factors


def scale(value: np.ndarray, factors: Mapping[int, np.ndarray]) -> np.ndarray:
    """An array scaled along some of its axes."""
    for axis, factor in factors.items():
        along = [1] * value.ndim
        along[axis] = -1
        value = value * factor.reshape(along)
    return value
