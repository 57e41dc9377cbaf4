"""Applies plans to one model, in place, and puts it back bit by bit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from autoprune.errors import PlanError
from autoprune.graph import find_branches, find_groups
from autoprune.layers import shape_within, update_derived
from autoprune.models import keras_internals
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.records import Branch, ChannelGroup, Plan, SurgeryReport, VariableChange
from autoprune.registry import suggestion
from autoprune.surgery.cutting import (
    Slices,
    check_dropped,
    check_gate_means,
    cut_attributes,
    cut_optimizer,
    cut_variables,
    drop_branches,
    fold_factors,
    scale,
    slices_for,
)


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
        rewired = self._wiring.restore()
        keras_internals.put_back([*self._variables, *self._slots])
        keras_internals.restore_attributes(self._attributes)
        for found, kind in self._classes:
            keras_internals.set_class(found, kind)
        for layer, name, value in self._initializers:
            setattr(layer, name, value)
        self._shapes.restore()
        update_derived(self._layers)
        if rewired:
            keras_internals.renew_parameters(self._model)
        # The optimiser of then, with the state of then; one that has got state since starts anew.
        now = keras_internals.optimizer_of(self._model)
        optimizer = now if self._optimizer is None else self._optimizer
        if self._optimizer_built:
            keras_internals.set_optimizer_lists(optimizer, self._lists)
            keras_internals.renew_identities(optimizer)
        elif optimizer is not None and optimizer.built:
            optimizer = keras_internals.fresh_optimizer(self._model, optimizer)
        if optimizer is not now:
            self._model.optimizer = optimizer
        keras_internals.renew_compiled_functions(self._model)


class Surgeon:
    """Prunes one model, any number of times, and puts it back.

    Args:
        model: a built Functional or Sequential model, not yet pruned.
        groups: its channel groups, if they are known already.
        fingerprint: its architecture's fingerprint, if that is known already.

    Attributes:
        applied: the plan that the model is pruned by, or None.

    Raises:
        ModelError: the model has no graph to follow.
    """

    def __init__(
        self, model: Any, groups: tuple[ChannelGroup, ...] | None = None, fingerprint: str | None = None
    ) -> None:
        self.model = model
        self.groups = find_groups(model) if groups is None else groups
        self.branches = find_branches(model, self.groups)
        self.fingerprint = fingerprint or architecture_fingerprint(model)
        self._operations = keras_internals.operations_by_path(model)
        self._wiring = keras_internals.Wiring(model)
        # By group, what of it the check looks at, and all that a snapshot has to remember besides variables.
        self._axes = {group.name: [m for m in group.members if not m.is_attribute] for group in self.groups}
        members = [part.members for part in self.groups] + [part.members for part in self.branches]
        self._attributes = {(m.layer, m.name) for of_part in members for m in of_part if m.is_attribute}
        self.applied: Plan | None = None

    def snapshot(self) -> Snapshot:
        """Remember the model as it is now."""
        return Snapshot(self.model, self._attributes)

    def apply(self, plan: Plan, rollback: Snapshot | None = None) -> SurgeryReport:
        """Remove the channels and branches that the plan does not keep. A failure leaves the model as it was.

        Args:
            plan: for this model.
            rollback: a snapshot to return to on failure, by default one that is taken now.

        Raises:
            PlanError: the plan is for another model, keeps impossible indices, drops what cannot go or a gate without
                its mean, or the model is pruned already.
        """
        if self.applied is not None:
            raise PlanError("The model is pruned already. Restore it before applying another plan.")
        self.check(plan)
        keras_internals.collect_state(self.model)
        slices = self.slices(plan)
        dropped = [branch for branch in self.branches if branch.name in plan.dropped]
        before = self.model.count_params()
        rollback = rollback or self.snapshot()
        try:
            factors = fold_factors(dropped, plan)
            scaled = keras_internals.variables_at(self._operations, factors)
            for variable, axes in zip(scaled, factors.values(), strict=True):
                variable.assign(scale(keras_internals.array_of(variable), axes))
            changes, optimizer, plain, lost = self._cut(slices, dropped)
        except Exception as error:
            rollback.restore()
            raise PlanError(
                f"The plan could not be applied to '{self.model.name}', which is as it was: "
                f"{type(error).__name__}: {error}"
            ) from error
        except BaseException:
            rollback.restore()
            raise
        self.applied = plan if changes or dropped else None
        after = self.model.count_params()
        left = self._find_left_alone(plan)
        return SurgeryReport(
            changes=tuple(changes),
            left_alone=left,
            parameters_before=before,
            parameters_after=after,
            optimizer=optimizer,
            dropped=plan.dropped,
            saved_as_plain=tuple(plain),
            lost_elsewhere=tuple(lost),
        )

    def prune_further(self, plan: Plan, snapshot: Snapshot) -> SurgeryReport:
        """Go on from the plan that was applied to one that keeps less, with the weights as they were trained since.

        Args:
            plan: keeps none of the channels, branches and gates that the plan before it took.
            snapshot: of the model before any surgery.

        Raises:
            PlanError: the plan keeps what is gone, and the model stays as it is; or as `apply`, and it is as in the
                snapshot.
        """
        earlier = self.applied
        if earlier is None:
            raise PlanError("There is nothing to go on from: no plan is applied. Call `apply` instead.")
        back = {name for name, kept in plan.kept.items() if not set(kept) <= set(earlier.kept.get(name, ()))}
        back |= set(earlier.dropped).difference(plan.dropped)
        if back or earlier.gate_means:
            raise PlanError(
                "A plan that goes on keeps a part of what the plan before it kept, which dropped no gate. It would "
                f"bring back: {', '.join(sorted(back | set(earlier.gate_means)))}."
            )
        slices = self.slices(earlier).variables
        cut = keras_internals.variables_at(self._operations, slices)
        masks = {id(variable): axes for variable, axes in zip(cut, slices.values(), strict=True)}
        trained = [(variable, keras_internals.array_of(variable)) for variable in self.model.variables]
        self.restore(snapshot)
        for variable, values in trained:
            axes = masks.get(id(variable), {})
            whole = np.array(keras_internals.array_of(variable))
            whole[np.ix_(*(axes.get(axis, np.ones(size, bool)) for axis, size in enumerate(whole.shape)))] = values
            variable.assign(whole)
        try:
            return self.apply(plan, snapshot)
        except PlanError:
            self.restore(snapshot)
            raise

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
        self.applied = None

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
        plan.check_indices()
        check_dropped(self.branches, plan.dropped)
        check_gate_means(self.branches, plan)
        if not self._wiring.holds:
            raise PlanError(
                "The model lost branches after this surgeon looked at it. Make a new Surgeon and plan for the model as "
                "it is now, or restore the model first."
            )
        # Whoever has pruned the model since its groups were found has cut other axes than these.
        axes = [member for name, members in self._axes.items() if name in plan.kept for member in members]
        variables = keras_internals.variables_at(self._operations, [(member.layer, member.name) for member in axes])
        for member, variable in zip(axes, variables, strict=True):
            if variable.shape[member.axis] != len(member.channels):
                raise PlanError(
                    f"The model was pruned after this surgeon looked at it: axis {member.axis} of the {member.name} of "
                    f"'{member.layer}' had {len(member.channels)} positions and has {variable.shape[member.axis]}. "
                    "Make a new Surgeon and plan for the model as it is now, or restore the model first."
                )

    def slices(self, plan: Plan) -> Slices:
        """What the plan leaves of every axis and attribute that shrinks.

        Raises:
            PlanError: nothing is left of one, because every branch that ends in it goes.
        """
        slices = slices_for(self.groups, plan, self.branches)
        for (path, name), axes in slices.variables.items() if plan.dropped else ():
            if not all(mask.any() for mask in axes.values()):
                raise PlanError(
                    f"Nothing enters the {name} of '{path}' without {', '.join(map(repr, plan.dropped))}: keep one of "
                    "the branches that end in it."
                )
        return slices

    def _cut(self, slices: Slices, dropped: Sequence[Branch]) -> tuple[list[VariableChange], str, list[str], list[str]]:
        """Slice variables and set attributes, then bring up to date all that Keras derived from the old widths.

        Returns:
            What changed, what became of the optimiser's state, the models that are saved as plain ones from now on, and
            the layers at which other models do not fit any more.
        """
        changes, masks = cut_variables(self._operations, slices)
        if not changes and not dropped:
            return [], "none", [], []
        cut_attributes(self._operations, slices)
        edited = self._with_owners({path for path, _ in (*slices.variables, *slices.values, *slices.counts)})
        update_derived(edited.values())
        before = {id(variable) for variable in self.model.variables}
        rewired, entering = drop_branches(self.model, dropped)
        gone = before - {id(variable) for variable in self.model.variables}
        if gone:
            keras_internals.renew_parameters(self.model)
        optimizer = cut_optimizer(self.model, masks, gone)
        # A model whose output the merge was has no call that reads another tensor now, and changes all the same.
        holders = self._with_owners({branch.merge for branch in dropped})
        touched = {id(operation) for operation in (*edited.values(), *holders.values(), *rewired)}
        graph = keras_internals.graph_of(self.model)
        changed = keras_internals.refresh_shapes(graph, touched, shape_within, entering)
        # Models that would be saved by their constructors' arguments, old widths among them, are saved as they are.
        stale, touched = [], touched | changed
        for path, model in keras_internals.models_within(self.model):
            if keras_internals.saves_its_graph(model):
                continue
            nodes = keras_internals.nodes_of(keras_internals.graph_of(model))
            between = {id(tensor) for node in nodes for tensor in node.outputs}
            if model is self.model or id(model) in touched or between & touched:
                stale.append((path, model))
        keras_internals.save_by_graph([model for _, model in stale])
        lost = keras_internals.refresh_outside(graph, changed)
        keras_internals.renew_compiled_functions(self.model)
        return changes, optimizer, [path for path, _ in stale], lost

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

    def _find_left_alone(self, plan: Plan) -> dict[str, str]:
        """For every group of which nothing was removed, why; those that left with a branch are gone."""
        left = {}
        gone = {name for branch in self.branches if branch.name in plan.dropped for name in branch.groups}
        # Of groups that are nowhere but in several branches, the plan alone says that they leave with them.
        gone |= plan.sizes.keys() - plan.kept.keys() if plan.dropped else set()
        for group in self.groups:
            if group.name in gone:
                continue
            if not group.prunable:
                left[group.name] = group.reason
            elif group.name not in plan.kept or len(plan.kept[group.name]) == group.size:
                left[group.name] = plan.left_whole.get(group.name, "is kept whole by the plan")
        return left
