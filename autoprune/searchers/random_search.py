"""The control that every learner must beat: independent random keep ratios around the anchor."""

import numpy as np

from autoprune.planning.widths import ratio_around
from autoprune.searchers.problem import SEARCHERS, Problem, Scorer, needs_anchor


@SEARCHERS.add("random")
def random(problem: Problem, scorer: Scorer, seed: int) -> None:
    """Draw every group's keep ratio as a uniformly random action of the environment would.

    Half of the draws of a group lie below the anchor, half above. The anchor itself comes last if nothing drawn met
    the budget.
    """
    generator = np.random.default_rng(seed)
    while scorer.left > 0:
        if needs_anchor(problem, scorer):
            scorer.evaluate(problem.anchor)
            return
        draws = generator.uniform(-1, 1, len(problem.groups))
        ratios = [ratio_around(problem.anchor, draw, problem.constraints.min_keep_ratio) for draw in draws]
        scorer.evaluate(dict(zip((group.name for group in problem.groups), ratios, strict=True)))
