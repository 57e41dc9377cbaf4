"""Turns keep ratios into a plan: widths snapped to legal ones, the least important channels dropped."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.errors import ModelError, PlanError
from autoprune.graph import find_groups
from autoprune.models import keras_internals
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.planning.importance import IMPORTANCES
from autoprune.planning.widths import legal_width
from autoprune.records import ChannelGroup, Member, Plan
from autoprune.registry import suggestion
from autoprune.settings import Constraints


class Planner:
    """Makes plans for one model. Channels are ranked once, from the weights at construction.

    Args:
        model: a built Functional or Sequential model.
        importance: name of the measure that ranks channels (`l1`, `l2`, `bn_gamma`, `random`).
        constraints: which widths are legal.
        seed: for measures that draw random numbers.

    Attributes:
        groups: the prunable groups, in data-flow order.
        all_groups: the frozen ones too.
        scores: importance of every channel, by group name.

    Raises:
        ModelError: the model has no graph to follow, or nothing in it can be pruned.
        UnknownNameError: there is no such importance.
    """

    def __init__(
        self, model: Any, *, importance: str = "l1", constraints: Constraints | None = None, seed: int = 0
    ) -> None:
        self.constraints = constraints or Constraints()
        self.importance = importance
        measure = IMPORTANCES.get(importance)
        self.all_groups = find_groups(model)
        self.groups = tuple(group for group in self.all_groups if group.prunable)
        if not self.groups:
            raise ModelError(_nothing_prunable(model, self.all_groups))
        self.fingerprint = architecture_fingerprint(model)
        values = _reader(model, self.groups)
        # Stable: equal scores keep the order of the channels, so that a plan depends on nothing but its inputs.
        self.scores = {group.name: measure(group, values, seed) for group in self.groups}
        self._ranking = {name: np.argsort(-scores, kind="stable") for name, scores in self.scores.items()}

    def widths(self, keep_ratios: float | Mapping[str, float]) -> dict[str, int]:
        """The legal width of every group nearest to its keep ratio.

        Args:
            keep_ratios: one for all groups, or by group name; a group that is not named is kept whole.

        Raises:
            PlanError: a ratio is outside (0, 1], or a name is not that of a prunable group.
        """
        ratios = self._by_group(keep_ratios)
        return {group.name: legal_width(group.size, ratios[group.name], self.constraints) for group in self.groups}

    def plan(self, keep_ratios: float | Mapping[str, float]) -> Plan:
        """The plan for these keep ratios. Arguments and errors as for `widths`."""
        widths = self.widths(keep_ratios)
        return Plan(
            model=self.fingerprint,
            sizes={group.name: group.size for group in self.groups},
            kept={name: np.sort(self._ranking[name][:width]) for name, width in widths.items()},
            importance=self.importance,
        )

    def _by_group(self, keep_ratios: float | Mapping[str, float]) -> dict[str, float]:
        if not isinstance(keep_ratios, Mapping):
            keep_ratios = {group.name: keep_ratios for group in self.groups}
        names = {group.name for group in self.groups}
        for name, ratio in keep_ratios.items():
            if name not in names:
                raise PlanError(f"The model has no prunable group '{name}'. {suggestion(name, names)}")
            if not 0 < ratio <= 1:
                raise PlanError(
                    f"A keep ratio is above 0 and at most 1. Received: {ratio} for group '{name}'. "
                    "To drop a tenth of the channels, write 0.9."
                )
        return {group.name: float(keep_ratios.get(group.name, 1.0)) for group in self.groups}


def make_plan(
    model: Any,
    keep_ratio: float | Mapping[str, float],
    *,
    importance: str = "l1",
    multiple_of: int = 8,
    seed: int = 0,
) -> Plan:
    """A plan that keeps the given share of every group's channels.

    Args:
        model: a built Functional or Sequential model; it is read, not changed.
        keep_ratio: share of the channels that stay, in (0, 1]: one for all groups, or by group name, where groups
            that are not named stay whole.
        importance: what ranks the channels of a group: `l1`, `l2`, `bn_gamma` or `random`.
        multiple_of: widths are multiples of this; groups smaller than it stay whole.
        seed: for `random`.

    Raises:
        ModelError: the model cannot be pruned.
        PlanError: a keep ratio or group name cannot be.
    """
    constraints = Constraints(multiple_of=multiple_of, min_keep_ratio=1e-9)
    return Planner(model, importance=importance, constraints=constraints, seed=seed).plan(keep_ratio)


def _reader(model: Any, groups: Sequence[ChannelGroup]) -> Any:
    """A function that reads the value of a member's variable, each once."""
    layers = keras_internals.layers_by_path(model)
    cache: dict[tuple[str, str], np.ndarray] = {}

    def read(member: Member) -> np.ndarray:
        key = (member.layer, member.name)
        if key not in cache:
            variable = keras_internals.layer_variable(layers[member.layer], member.name)
            cache[key] = variable.numpy().astype(np.float64)
        return cache[key]

    return read


def _nothing_prunable(model: Any, groups: Sequence[ChannelGroup]) -> str:
    reasons = (
        "; ".join(f"'{group.name}' {group.reason}" for group in groups[:5]) or "it has no convolution or dense layer"
    )
    return (
        f"Nothing in the model '{model.name}' can be pruned: {reasons}. Channels can be removed from convolutions and "
        "dense layers whose outputs reach another layer through operations that autoprune knows."
    )
