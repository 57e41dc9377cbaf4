"""Folds the means of gates that go into the weights next to them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.errors import PlanError
from autoprune.graph.branches import is_within
from autoprune.models import keras_internals
from autoprune.records import Branch, Plan

# By (layer path, variable), for every axis that is scaled a factor for each position, before anything is cut.
Factors = dict[tuple[str, str], dict[int, np.ndarray]]


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


def scale_variables(operations: Mapping[str, Any], factors: Factors) -> None:
    """Scale variables in place."""
    for variable, axes in zip(keras_internals.variables_at(operations, factors), factors.values(), strict=True):
        variable.assign(scale(keras_internals.array_of(variable), axes))
