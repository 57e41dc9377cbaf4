"""Applies plans to one model, in place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from autoprune.errors import PlanError
from autoprune.graph import find_groups
from autoprune.models import keras_internals
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.planning.plan_file import check_indices
from autoprune.records import ChannelGroup, Plan, SurgeryReport, VariableChange
from autoprune.registry import suggestion
from autoprune.surgery.optimizer import refresh_optimizer
from autoprune.surgery.shapes import refresh_outside, refresh_shapes, update_derived
from autoprune.surgery.slicing import Slices, slices_for, take
from autoprune.surgery.snapshot import Snapshot


class Surgeon:
    """Prunes one model, any number of times, and puts it back.

    Args:
        model: a built Functional or Sequential model, not yet pruned.
        groups: its channel groups, if they are known already.
        fingerprint: its architecture's fingerprint, if that is known already.

    Raises:
        ModelError: the model has no graph to follow.
    """

    def __init__(
        self, model: Any, groups: tuple[ChannelGroup, ...] | None = None, fingerprint: str | None = None
    ) -> None:
        self.model = model
        self.groups = find_groups(model) if groups is None else groups
        self.fingerprint = fingerprint or architecture_fingerprint(model)
        self._operations = keras_internals.operations_by_path(model)
        self._pruned = False

    def snapshot(self) -> Snapshot:
        """Remember the model as it is now."""
        attributes = {(m.layer, m.name) for g in self.groups for m in g.members if m.is_attribute}
        return Snapshot(self.model, attributes)

    def apply(self, plan: Plan, rollback: Snapshot | None = None) -> SurgeryReport:
        """Remove the channels that the plan does not keep. A failure leaves the model as it was.

        Args:
            plan: for this model.
            rollback: a snapshot to return to on failure, by default one that is taken now.

        Raises:
            PlanError: the plan is for another model, keeps impossible indices, or the model is pruned already.
        """
        if self._pruned:
            raise PlanError("The model is pruned already. Restore it before applying another plan.")
        self.check(plan)
        keras_internals.collect_state(self.model)
        slices = slices_for(self.groups, plan)
        before = self.model.count_params()
        rollback = rollback or self.snapshot()
        try:
            changes, optimizer, plain, lost = self._cut(slices)
        except Exception as error:
            rollback.restore()
            raise PlanError(
                f"The plan could not be applied to '{self.model.name}', which is as it was: "
                f"{type(error).__name__}: {error}"
            ) from error
        except BaseException:
            rollback.restore()
            raise
        self._pruned = bool(changes)
        after = self.model.count_params()
        left = self._find_left_alone(plan)
        return SurgeryReport(
            changes=tuple(changes),
            left_alone=left,
            parameters_before=before,
            parameters_after=after,
            optimizer=optimizer,
            saved_as_plain=tuple(plain),
            lost_elsewhere=tuple(lost),
        )

    @contextmanager
    def pruning(self, plan: Plan, snapshot: Snapshot) -> Iterator[SurgeryReport]:
        """The model is pruned within the block and exactly as in the snapshot after it."""
        report = self.apply(plan, snapshot)
        try:
            yield report
        finally:
            self.restore(snapshot)

    def restore(self, snapshot: Snapshot) -> None:
        """Put the model back as it was when the snapshot was taken."""
        snapshot.restore()
        self._pruned = False

    def check(self, plan: Plan) -> None:
        """Refuse a plan that is not for this model.

        Raises:
            PlanError: saying what differs.
        """
        groups = {group.name: group for group in self.groups}
        for name in plan.kept:
            if name not in groups:
                raise PlanError(
                    f"The plan is for another model: it names the group '{name}', which '{self.model.name}' does not "
                    f"have. {suggestion(name, groups)}"
                )
            group = groups[name]
            if not group.prunable:
                raise PlanError(f"The plan prunes the group '{name}', which cannot be: it {group.reason}.")
            if plan.sizes.get(name) != group.size:
                raise PlanError(
                    f"The plan is for another model: its group '{name}' has {plan.sizes.get(name)} channels, that of "
                    f"'{self.model.name}' has {group.size}. Was the model pruned already?"
                )
        if plan.model != self.fingerprint:
            raise PlanError(
                f"The plan is for another model: fingerprint {plan.model}, '{self.model.name}' has {self.fingerprint}. "
                "The groups agree, but an operation, a connection or the input size differs."
            )
        check_indices(plan)
        self._check_unchanged(plan)

    def _check_unchanged(self, plan: Plan) -> None:
        """Refuse to cut by groups of a model that someone else has pruned since they were found."""
        for group in self.groups:
            for member in group.members if group.name in plan.kept else ():
                if member.is_attribute:
                    continue
                variable = keras_internals.layer_variable(self._operations[member.layer], member.name)
                length = keras_internals.shape_of(variable)[member.axis]
                if length != len(member.channels):
                    raise PlanError(
                        f"The model was pruned after this surgeon looked at it: axis {member.axis} of the "
                        f"{member.name} of '{member.layer}' had {len(member.channels)} positions and has {length}. "
                        "Make a new Surgeon and plan for the model as it is now, or restore the model first."
                    )

    def _cut(self, slices: Slices) -> tuple[list[VariableChange], str, list[str], list[str]]:
        """Slice variables and set attributes, then bring up to date all that Keras derived from the old widths.

        Returns:
            What changed, what became of the optimiser's state, the models that are saved as plain ones from now on, and
            the layers at which other models do not fit any more.
        """
        changes, masks = self._cut_variables(slices)
        if not changes:
            return [], "none", [], []
        self._set_attributes(slices)
        paths = {path for path, _ in (*slices.variables, *slices.values)} | {path for path, *_ in slices.counts}
        edited = self._with_owners(paths)
        update_derived(edited.values())
        optimizer = refresh_optimizer(self.model, masks)
        touched = {id(operation) for operation in edited.values()}
        graph = keras_internals.graph_of(self.model)
        changed = refresh_shapes(graph, touched)
        plain = self._save_by_graph(touched | changed)
        lost = refresh_outside(graph, changed)
        keras_internals.renew_compiled_functions(self.model)
        return changes, optimizer, plain, lost

    def _with_owners(self, paths: set[str]) -> dict[str, Any]:
        """The operations at these paths and all that contain them: a wrapper changes with the layer that it wraps.

        A layer that several wrappers share has several paths.
        """
        named = {id(self._operations[path]) for path in paths}
        found = {}
        for path, operation in self._operations.items():
            parts = path.split("/") if id(operation) in named else []
            for end in range(1, len(parts) + 1):
                owner = "/".join(parts[:end])
                if owner in self._operations:
                    found[owner] = self._operations[owner]
        return found

    def _save_by_graph(self, changed: set[int]) -> list[str]:
        """Let models that would be saved by their constructors' arguments, old widths among them, be saved as they are.

        Args:
            changed: `id` of operations and symbolic tensors.

        Returns:
            Their paths; the model's own is its name.
        """
        stale = [
            (path, model)
            for path, model in ((self.model.name, self.model), *self._operations.items())
            if keras_internals.is_graph(model)
            and not keras_internals.saves_its_graph(model)
            and (model is self.model or id(model) in changed or _tensors_of(model) & changed)
        ]
        keras_internals.save_by_graph(model for _, model in stale)
        return [path for path, _ in stale]

    def _cut_variables(self, slices: Slices) -> tuple[list[VariableChange], dict[int, dict[int, np.ndarray]]]:
        """Give variables new storage; returns what changed, and by `id` of a variable the positions that stayed."""
        changes, masks = [], {}
        for (path, name), axes in slices.variables.items():
            variable = keras_internals.layer_variable(self._operations[path], name)
            value = keras_internals.array_of(variable)
            kept = take(value, axes)
            keras_internals.replace_value(variable, kept)
            _cut_initializer(self._operations[path], name, value.shape, axes)
            changes.append(VariableChange(path, name, value.shape, kept.shape))
            masks[id(variable)] = axes
        return changes, masks

    def _set_attributes(self, slices: Slices) -> None:
        """Cut attributes with a value for each position, and set those that count positions."""
        for (path, name), axes in slices.values.items():
            value = keras_internals.read_attribute(self._operations[path], name)
            kept = take(np.asarray(value), axes)
            kept = kept if isinstance(value, np.ndarray) else type(value)(kept.tolist())
            keras_internals.write_attribute(self._operations[path], name, kept)
        for (path, name, position), count in slices.counts.items():
            value = keras_internals.read_attribute(self._operations[path], name)
            value = count if position < 0 else (*value[:position], count, *value[position + 1 :])
            keras_internals.write_attribute(self._operations[path], name, value)

    def _find_left_alone(self, plan: Plan) -> dict[str, str]:
        """For every group of which nothing was removed, why."""
        left = {}
        for group in self.groups:
            if not group.prunable:
                left[group.name] = group.reason
            elif group.name not in plan.kept or len(plan.kept[group.name]) == group.size:
                left[group.name] = plan.left_whole.get(group.name, "is kept whole by the plan")
        return left


def _tensors_of(model: Any) -> set[int]:
    """`id` of the symbolic tensors between a model's operations."""
    nodes = keras_internals.nodes_of(keras_internals.graph_of(model))
    return {id(tensor) for node in nodes for tensor in node.outputs}


def _cut_initializer(layer: Any, name: str, shape: tuple[int, ...], axes: dict[int, np.ndarray]) -> None:
    """An initialiser with a value for each element goes into the saved file and must have the variable's new shape."""
    attribute = f"{name}_initializer"
    initializer = keras_internals.array_initializers(layer).get(attribute)
    if initializer is not None and np.shape(initializer.value) == shape:
        setattr(layer, attribute, type(initializer)(take(np.asarray(initializer.value), axes)))
