"""The control that every learner must beat: independent random keep ratios around the anchor."""

import numpy as np

from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal
from autoprune.searchers.problem import Problem
from autoprune.searchers.searcher import Proposals, ask_tell

BATCH = 8
DRAWS = 50  # At most, for one that is predicted to meet the budget.


@ask_tell("random")
def random(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Draw every group's keep ratio as a uniformly random action of the environment would.

    Half of the draws of a group lie below the anchor, half above; of the branches a random share goes. The anchor
    itself comes last if nothing drawn met the budget. Where predictions of the cost screen proposals, one that is
    predicted to miss the budget is drawn again.
    """
    generator = np.random.default_rng(seed)
    while not evaluator.needs_anchor:
        batch = []
        for _ in range(min(BATCH, max(evaluator.left - 1, 1))):
            for _ in range(DRAWS):
                candidate = problem.space.random(generator, problem.anchor)
                if evaluator.promising(candidate):
                    break
            batch.append(Proposal(candidate))
        yield batch
    yield [Proposal(problem.start, project=False)]
