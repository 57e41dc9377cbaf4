"""The exact solution of what predictions pose: the plan of the highest expected score within the budget.

Each trial teaches the predictions, the plan that is then best by them is the next one scored, and so on: what an
engineer gets who fits a model to the evaluations and solves for its optimum. Of pruning to a latency this is the
knapsack of HALP (Shen et al., 2022, arXiv 2110.10811), with scores of whole plans in the place of summed importances,
and the compiler's word in the place of a table of latencies.
"""

import numpy as np

from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal
from autoprune.searchers.problem import Problem
from autoprune.searchers.reward_model import RewardModel
from autoprune.searchers.searcher import Proposals, ask_tell
from autoprune.searchers.solving import Solver

FIRST = 0.25  # Share of the evaluations that teach predictions before anything is solved for.


@ask_tell("exact")
def exact(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Solve for the plan of the highest expected improvement, in the end for that of the highest expected reward."""
    reward_model = RewardModel(evaluator)
    solver = Solver(reward_model, np.random.default_rng(seed))
    yield from solver.first_trials(FIRST)
    # The last one by itself: it is chosen by all others.
    while solved := solver.solve(count=min(evaluator.batch, max(evaluator.left - 1, 1)), explore=evaluator.left > 1):
        yield [Proposal(candidate, "solution", project=False) for candidate, _ in solved]
        reward_model.learn()
