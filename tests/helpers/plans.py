"""Plans for tests."""

import numpy as np

from autoprune.graph import find_groups
from autoprune.planning import make_plan


def uneven_plan(model, seed=0):
    """Another keep ratio for every group, and random channels: nothing that happens to be symmetric."""
    generator = np.random.default_rng(seed)
    ratios = {group.name: float(generator.uniform(0.3, 0.9)) for group in find_groups(model) if group.prunable}
    return make_plan(model, ratios, importance="random", multiple_of=1, seed=seed)


def evaluate_at(evaluator, keep_ratios):
    """Evaluate the candidate nearest to keep ratios: one for all, or by name."""
    return evaluator.evaluate(evaluator.space.nearest(keep_ratios))
