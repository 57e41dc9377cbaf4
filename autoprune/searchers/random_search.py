"""The control that every learner must beat: independent random keep ratios around the anchor."""

import numpy as np

from autoprune.planning.widths import ratio_around
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer, needs_anchor
from autoprune.searchers.searcher import SEARCHERS

DRAWS = 50  # At most, for one that is guessed to meet the budget.


@SEARCHERS.add("random")
def random(problem: Problem, scorer: Scorer, seed: int) -> None:
    """Draw every group's keep ratio as a uniformly random action of the environment would.

    Half of the draws of a group lie below the anchor, half above. The anchor itself comes last if nothing drawn met
    the budget. Where guesses of the cost screen plans, a plan that is guessed to miss the budget is drawn again.
    """
    generator = np.random.default_rng(seed)
    while scorer.left > 0:
        if needs_anchor(problem, scorer):
            scorer.evaluate(problem.anchor)
            return
        for _ in range(DRAWS):
            draws = generator.uniform(-1, 1, len(problem.groups))
            ratios = [ratio_around(problem.anchor, draw, problem.legal.minimum) for draw in draws]
            plan = dict(zip((group.name for group in problem.groups), ratios, strict=True))
            if scorer.promising(plan):
                break
        scorer.evaluate(plan)
