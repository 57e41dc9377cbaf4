"""The plan that predictions call best is found, and confirmed by the compiler, where all can be counted through."""

import itertools

import numpy as np
import pytest

from autoprune.records import Budget
from autoprune.searchers import Proposal
from autoprune.searchers.reward_model import RewardModel
from autoprune.searchers.solving import Solver
from helpers import toy

EVERY = np.array(list(itertools.product(range(8), repeat=4)))


def informed(seed, budget=toy.BUDGET, count=12):
    """A solver that knows a few random plans."""
    evaluator = toy.budgeted(count + 30, to_search=toy.problem(limits=Budget(budget)))
    generator = np.random.default_rng(seed)
    evaluator.evaluate_many([Proposal(toy.SPACE.random(generator, budget)) for _ in range(count)])
    model = RewardModel(evaluator)
    model.learn()
    return Solver(model, generator), model, evaluator


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_no_plan_of_4096_is_better_by_the_predictions(budget, explore):
    for seed in range(4):
        solver, *_ = informed(seed, budget)
        candidates = solver._climb(np.empty((0, 4), int), explore=explore)
        found, best = (solver._worth(rows, explore=explore).max() for rows in (candidates, EVERY))
        assert found == pytest.approx(best, rel=1e-9)


def test_what_is_proposed_is_new_and_mostly_confirmed_to_be_within_the_budget():
    """One is not if the compiler refuses four in a row: then predictions must learn where they are wrong."""
    solver, model, evaluator = informed(0)
    within = []
    for _ in range(6):
        candidate, is_proposed = solver.solve()
        assert not is_proposed
        assert candidate not in {trial.candidate for trial in evaluator.history}
        (trial,) = evaluator.evaluate_many([Proposal(candidate, project=False)])
        within.append(evaluator.problem.budget.met_by(trial.evaluation.cost))
        model.learn()
    assert sum(within) >= 5


def test_a_proposal_that_is_the_best_is_taken_and_told_to_be_one_of_those_proposed():
    best, is_proposed = informed(0)[0].solve(explore=False)
    assert not is_proposed
    assert informed(0)[0].solve(np.array([best, toy.SPACE.nearest(0.5)]), explore=False) == (best, True)


def test_when_every_plan_is_known_there_is_nothing_to_propose():
    space = toy.SPACE.restrict({"a": [64], "b": [32, 64], "c": [64], "d": [64]})
    evaluator = toy.budgeted(9, to_search=toy.problem(space=space))
    evaluator.evaluate_many([Proposal(space.full), Proposal(space.nearest(0.5))])
    model = RewardModel(evaluator)
    model.learn()
    assert Solver(model, np.random.default_rng(0)).solve() is None
