"""Plans for tests."""

import dataclasses

import numpy as np

from autoprune.graph import find_groups
from autoprune.planning import make_plan
from autoprune.planning.calibration import as_calibration, measure_gate_means
from helpers.topologies import images_for


def uneven_plan(model, seed=0):
    """Another keep ratio for every group, and random channels: nothing that happens to be symmetric."""
    generator = np.random.default_rng(seed)
    ratios = {group.name: float(generator.uniform(0.3, 0.9)) for group in find_groups(model) if group.prunable}
    return make_plan(model, ratios, importance="random", multiple_of=1, seed=seed)


def dropping(model, branches, plan, names):
    """The plan without these branches, with the means that gates among them have over random images."""
    gates = [branch for branch in branches if branch.kind == "gate" and branch.name in names]
    means = measure_gate_means(model, gates, as_calibration(images_for(model, 20, seed=2)))
    return dataclasses.replace(plan, dropped=tuple(names), gate_means=means)


def evaluate_at(evaluator, keep_ratios):
    """Evaluate the candidate nearest to keep ratios: one for all, or by name."""
    return evaluator.evaluate(evaluator.space.nearest(keep_ratios))
