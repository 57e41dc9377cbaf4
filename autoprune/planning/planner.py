"""Turns keep ratios into a plan: widths snapped to legal ones, the least important channels dropped."""

import dataclasses
import logging
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.errors import ModelError, PlanError
from autoprune.graph import find_branches, find_groups
from autoprune.graph.branches import is_within
from autoprune.models import keras_internals
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.planning.calibration import as_calibration, measure_gate_means
from autoprune.planning.depth import tie_branches
from autoprune.planning.importance import IMPORTANCES, ImportanceContext
from autoprune.planning.importance.rounds import rank_channels
from autoprune.planning.ranking import rank_globally
from autoprune.planning.space import Dimension, SearchSpace, legal_widths
from autoprune.records import Branch, ChannelGroup, Plan
from autoprune.registry import suggestion
from autoprune.settings import Constraints, ImportanceSettings

logger = logging.getLogger(__name__)

RANKINGS = ("local", "global")


class Planner:
    """Makes plans for one model. Channels are ranked once, from the model as it is at construction.

    Args:
        model: a built Functional or Sequential model; it is read, not changed.
        importance: name of the measure that ranks channels (`autoprune.planning.importance` lists them), or settings
            that also say how the layers of a group are brought together.
        constraints: which widths are legal.
        seed: for measures that draw random numbers.
        data: for measures that are read from data, and means of gates: `(images, labels)`, images alone, or
            `CalibrationData`. About 256 images of the training split; measures that look at the weights alone do not
            read them.
        gates: names of gates that may go though the constraints name none.

    Attributes:
        groups: the prunable groups, in data-flow order.
        all_groups: the frozen ones too.
        branches: those that the constraints allow to go, in data-flow order.
        all_branches: the others too.
        parts: what each dimension decides on, in their order: groups, and each branch before what leaves with it.
        scores: importance of every channel, by group name.
        space: the plans that may be made: a dimension for each of the parts.

    Raises:
        ModelError: the model has no graph to follow, or nothing in it can be pruned.
        UnknownNameError: there is no such importance.
        PlanError: the importance, or the mean of a gate, is read from data and there are none, or it cannot be read
            from this model.
        DataError: the data do not fit the model.
    """

    def __init__(
        self,
        model: Any,
        *,
        importance: str | ImportanceSettings = "l1",
        constraints: Constraints | None = None,
        seed: int = 0,
        data: Any = None,
        gates: Collection[str] = (),
    ) -> None:
        settings = ImportanceSettings(importance) if isinstance(importance, str) else importance
        self.constraints = constraints or Constraints()
        self.importance = settings.name
        maker = IMPORTANCES.get(settings.name)
        self.all_groups = find_groups(model)
        self.groups = tuple(group for group in self.all_groups if group.prunable)
        self.all_branches = find_branches(model, self.all_groups)
        self.branches = _choose_branches(self.all_branches, self.constraints.depth, gates)
        if not self.groups and not self.branches:
            reasons = "; ".join(f"'{group.name}' {group.reason}" for group in self.all_groups[:5])
            raise ModelError(
                f"Nothing in the model '{model.name}' can be pruned: "
                f"{reasons or 'it has no convolution or dense layer'}. Channels can be removed from convolutions and "
                "dense layers whose outputs reach another layer through operations that autoprune knows."
            )
        self.fingerprint = architecture_fingerprint(model)
        keras_internals.collect_state(model)
        calibration = as_calibration(data)
        widths = {group.name: tuple(legal_widths(group.size, self.constraints, group.unit)) for group in self.groups}
        self._context = ImportanceContext(model, self.groups, settings, calibration, seed)
        rankings = rank_channels(self._context, maker, {name: legal[0] for name, legal in widths.items()})
        means = measure_gate_means(model, [branch for branch in self.branches if branch.kind == "gate"], calibration)
        self.scores = {name: ranking.scores for name, ranking in rankings.items()}
        self.parts = _order_parts(self.groups, self.branches)
        self.space = SearchSpace(
            [
                Dimension(part.name, (0, 1), np.zeros(0, int), is_branch=True, mean=means.get(part.name))
                if isinstance(part, Branch)
                else Dimension(part.name, widths[part.name], rankings[part.name].order)
                for part in self.parts
            ],
            self.constraints.min_keep_ratio,
            model=self.fingerprint,
            importance=self.importance,
            depth=tie_branches(self.parts, keep_stages=self.constraints.keep_stages),
        )
        if not self.space.free:
            sizes = ", ".join(f"'{group.name}' of {group.size} channels" for group in self.groups[:5])
            logger.warning(
                "nothing can be removed in multiples of %s, at least %g of each group kept: no narrower width is left "
                "for %s. Allow narrower ones by a smaller multiple_of or min_keep_ratio.",
                self.constraints.multiple_of,
                self.constraints.min_keep_ratio,
                sizes,
            )
        self._shapes = _shapes(model, self.groups)

    def choose_again(self, plan: Plan, earlier: Plan) -> Plan:
        """A plan as wide as another, of channels that are chosen by the importance that they have by now.

        Args:
            plan: says how many channels stay, in no group more than `earlier`.
            earlier: what the model is pruned by, and was trained since.

        Returns:
            The plan, for the dense model, which keeps a part of what `earlier` keeps. Where a group cannot be told from
            another as large, its channels are chosen by the importance that they had.
        """
        now = [(_makers(group), group) for group in find_groups(self._context.model) if group.prunable]
        # Groups have other names where the layer that began them has left with a branch.
        left: dict[str, ChannelGroup] = {}
        for group in self.groups:
            if group.name in plan.kept and len(plan.kept[group.name]) < len(earlier.kept[group.name]):
                size, makers = len(earlier.kept[group.name]), _makers(group)
                found = [other for of_other, other in now if other.size == size and of_other and of_other <= makers]
                # Parts of one tensor can be as large as each other: which is which cannot be told.
                if len(found) == 1:
                    left[group.name] = found[0]
        context = dataclasses.replace(self._context, groups=tuple(left.values()))
        widths = {group.name: len(plan.kept[name]) for name, group in left.items()}
        rankings = rank_channels(context, IMPORTANCES.get(self.importance), widths)
        kept = {}
        for name, own in plan.kept.items():
            had = earlier.kept[name]
            scores = rankings[left[name].name].scores if name in left else self.scores[name][had]
            best = np.argsort(-scores, kind="stable")[: len(own)]
            kept[name] = had[np.sort(best)]
        return dataclasses.replace(plan, kept=kept)

    def restrict(self, allowed: Mapping[str, Sequence[int]]) -> None:
        """Allow groups these widths only, of those that they have, and the dense one."""
        self.space = self.space.restrict(allowed)

    def plan(self, keep_ratios: float | Mapping[str, float], *, ranking: str = "local") -> Plan:
        """The plan for these keep ratios.

        Args:
            keep_ratios: one for all groups, or by name of a group or branch; who is not named is kept whole, and
                branches have 0, gone, or 1. One number for the global ranking.
            ranking: `local`: every group keeps its share. `global`: one threshold on the scores of all groups, so that
                the keep ratio is the share of all channels that stay, and groups of unimportant channels lose more;
                see `autoprune.planning.ranking`. Scores are compared as the importance settings normalise them: by
                default each group's are around 1, whatever its size and weights.

        Raises:
            PlanError: a ratio is outside (0, 1], a name is not that of a prunable group or removable branch, ratios by
                group are given for the global ranking, or the model was pruned after this planner was made.
        """
        if ranking not in RANKINGS:
            raise PlanError(f"The ranking is one of {', '.join(RANKINGS)}. Received: {ranking!r}")
        # Scores of channels that are gone are nothing to plan by.
        for (layer, name), (variable, shape) in self._shapes.items():
            now = keras_internals.shape_of(variable)
            if now != shape:
                raise PlanError(
                    f"The model was pruned after this planner scored its channels: the {name} of '{layer}' had shape "
                    f"{shape} and has {now}. Make a new Planner for the model as it is now, or "
                    "restore the model first."
                )
        self._check_ratios(keep_ratios)
        if ranking == "local":
            return self.space.plan(self.space.nearest(keep_ratios))
        if isinstance(keep_ratios, Mapping):
            raise PlanError(
                "The global ranking decides itself how much each group keeps: it takes one keep ratio for the whole "
                "model. Received: ratios by group. Give one number, or use ranking='local'."
            )
        return self.space.plan(rank_globally(self.space, self.scores, keep_ratios))

    def _check_ratios(self, keep_ratios: float | Mapping[str, float]) -> None:
        groups, branches = [group.name for group in self.groups], {branch.name: branch for branch in self.all_branches}
        given = keep_ratios if isinstance(keep_ratios, Mapping) else dict.fromkeys(groups, keep_ratios)
        for name, ratio in given.items():
            if name in branches:
                if not branches[name].removable:
                    raise PlanError(f"The branch '{name}' cannot be dropped: it {branches[name].reason}.")
                if ratio not in (0, 1):
                    raise PlanError(f"A branch has the keep ratio 0, gone, or 1. Received: {ratio!r} for '{name}'.")
                if name not in self.space.names and not ratio:
                    raise PlanError(f"The branch '{name}' stays by constraints.depth={self.constraints.depth}.")
                continue
            if name not in groups:
                what = "prunable group or branch" if branches else "prunable group"
                raise PlanError(f"The model has no {what} '{name}'. {suggestion(name, [*groups, *branches])}")
            if isinstance(ratio, bool) or not isinstance(ratio, numbers.Real) or not 0 < ratio <= 1:
                raise PlanError(
                    f"A keep ratio is above 0 and at most 1. Received: {ratio!r} for group '{name}'. "
                    "To drop a tenth of the channels, write 0.9."
                )


def make_plan(
    model: Any,
    keep_ratio: float | Mapping[str, float],
    *,
    importance: str | ImportanceSettings = "l1",
    ranking: str = "local",
    multiple_of: int | None = None,
    seed: int = 0,
    data: Any = None,
) -> Plan:
    """A plan that keeps the given share of every group's channels, or of all channels, and drops branches by name.

    Args:
        model: a built Functional or Sequential model; it is read, not changed.
        keep_ratio: share of the channels that stay, in (0, 1]: one for all groups, or by name, where groups that are
            not named stay whole. The name of a branch (`find_branches`) with 0 drops it; a gate needs `data`.
        importance: what ranks the channels: from the weights `l1`, `l2`, `bn_gamma`, `fpgm`, `lamp` or `random`; from
            data `activation`, `apoz` or `hrank`; from data with labels `taylor`, `loss`, `loss_biased`, `fisher`,
            `grasp`, `gradient_norm` or `class_saliency`. Or `ImportanceSettings`.
        ranking: `local` keeps the share in every group, `global` over all groups together.
        multiple_of: widths are multiples of this; groups smaller than it stay whole. By default of 8, as a TPU likes
            them, or of 4, 2 or 1 where 8 leaves a group fewer than two narrower widths. `Plan.left_whole` and the
            report of `apply_plan` say which groups stay whole because of it, and a warning when all do.
        seed: for `random`.
        data: `(images, labels)`, or images alone, for measures that are read from data, and for the means that replace
            gates: some 256 training images.

    Raises:
        ModelError: the model cannot be pruned.
        PlanError: a keep ratio, name or ranking cannot be, or a measure or gate lacks data.
        DataError: the data do not fit the model.
        UnknownNameError: there is no such importance.

    Example:
        >>> plan = autoprune.make_plan(model, {"first": 0.5, "sum[0]": 0})
        >>> plan.widths["first"], plan.dropped
        (8, ('sum[0]',))
    """
    constraints = Constraints(multiple_of=multiple_of, min_keep_ratio=1e-9)
    gates = [name for name, ratio in keep_ratio.items() if not ratio] if isinstance(keep_ratio, Mapping) else []
    planner = Planner(model, importance=importance, constraints=constraints, seed=seed, data=data, gates=gates)
    plan = planner.plan(keep_ratio, ranking=ranking)
    wanted = keep_ratio if isinstance(keep_ratio, Mapping) else dict.fromkeys(plan.kept, keep_ratio)
    whole = {
        name: ratio
        for name, ratio in wanted.items()
        if ratio < 1 and name in plan.kept and len(plan.kept[name]) == plan.sizes[name]
    }
    step = "of its step" if multiple_of is None else f"of {multiple_of}"
    if (
        whole
        and planner.space.free
        and not plan.dropped
        and all(len(kept) == plan.sizes[name] for name, kept in plan.kept.items())
    ):
        logger.warning(
            "the plan removes nothing: of the widths of each group in multiples %s all channels are nearest to what "
            "was asked for. Ask for a smaller keep ratio, or for multiple_of=1.",
            step,
        )
    if ranking == "global":  # There a group stays whole because its channels matter.
        return plan
    why = "has no width in multiples {} that is nearer to the keep ratio {:g} than all its channels"
    return dataclasses.replace(plan, left_whole={name: why.format(step, ratio) for name, ratio in whole.items()})


def _choose_branches(branches: Sequence[Branch], depth: Any, gates: Collection[str]) -> tuple[Branch, ...]:
    """The branches that may go: all that can but for gates, none, or those that are named; and, of these gates, all.

    Raises:
        PlanError: there is no such branch, or it cannot go.
    """
    if isinstance(depth, bool):
        return tuple(
            branch
            for branch in branches
            if (depth and branch.by_default) or (branch.removable and branch.name in gates)
        )
    named = {branch.name: branch for branch in branches}
    for name in depth:
        if name not in named:
            raise PlanError(f"constraints.depth: the model has no branch '{name}'. {suggestion(name, named)}")
        if not named[name].removable:
            raise PlanError(f"constraints.depth: the branch '{name}' cannot be dropped: it {named[name].reason}.")
    return tuple(branch for branch in branches if branch.name in depth)


def _order_parts(groups: Sequence[ChannelGroup], branches: Sequence[Branch]) -> tuple[ChannelGroup | Branch, ...]:
    """Groups in their order, each branch before the first that leaves with it, or else that is made in it.

    Of two branches before the same group the larger comes first.
    """
    places = {group.name: number for number, group in enumerate(groups)}
    first: dict[str, int] = {}
    for number, group in enumerate(groups):
        for member in group.members:
            if member.role == "produces":
                first.setdefault(member.layer, number)
    begins = [
        min(
            [places[name] for name in branch.groups if name in places]
            or [number for path, number in first.items() if is_within(path, branch.operations)],
            default=len(groups),
        )
        for branch in branches
    ]
    keyed: list[tuple[tuple[int, int, int], ChannelGroup | Branch]] = [
        *(((number, 1, 0), group) for number, group in enumerate(groups)),
        *(((begin, 0, -len(b.operations)), b) for begin, b in zip(begins, branches, strict=True)),
    ]
    return tuple(part for _, part in sorted(keyed, key=lambda pair: pair[0]))


def _makers(group: ChannelGroup) -> set[tuple[str, str, int]]:
    """The axes that make channels of a group, by layer and variable."""
    return {(member.layer, member.name, member.axis) for member in group.members if member.role == "produces"}


def _shapes(model: Any, groups: Sequence[ChannelGroup]) -> dict[tuple[str, str], tuple[Any, tuple[int, ...]]]:
    """Every variable that a plan would shrink, by layer and name, with its shape now."""
    layers = keras_internals.layers_by_path(model)
    members = {(m.layer, m.name) for group in groups for m in group.members if not m.is_attribute}
    variables = {key: keras_internals.layer_variable(layers[key[0]], key[1]) for key in sorted(members)}
    return {key: (variable, keras_internals.shape_of(variable)) for key, variable in variables.items()}
