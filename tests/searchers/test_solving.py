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
        ((candidate, is_proposed),) = solver.solve()
        assert not is_proposed
        assert candidate not in {trial.candidate for trial in evaluator.history}
        (trial,) = evaluator.evaluate_many([Proposal(candidate, project=False)])
        within.append(evaluator.problem.budget.met_by(trial.evaluation.cost))
        model.learn()
    assert sum(within) >= 5


def test_a_proposal_that_is_the_best_is_taken_and_told_to_be_one_of_those_proposed():
    ((best, is_proposed),) = informed(0)[0].solve(explore=False)
    assert not is_proposed
    assert informed(0)[0].solve(np.array([best, toy.SPACE.nearest(0.5)]), explore=False) == [(best, True)]


def test_when_every_plan_is_known_there_is_nothing_to_propose():
    space = toy.SPACE.restrict({"a": [64], "b": [32, 64], "c": [64], "d": [64]})
    evaluator = toy.budgeted(9, to_search=toy.problem(space=space))
    evaluator.evaluate_many([Proposal(space.full), Proposal(space.nearest(0.5))])
    model = RewardModel(evaluator)
    model.learn()
    assert Solver(model, np.random.default_rng(0)).solve() == []


def test_a_batch_is_of_candidates_that_differ_and_begins_with_the_one_that_would_come_alone():
    solver, _, evaluator = informed(0)
    batch = [candidate for candidate, _ in solver.solve(count=4)]
    assert len(set(batch)) == 4
    assert not set(batch) & {trial.candidate for trial in evaluator.history}
    assert [batch[0]] == [candidate for candidate, _ in informed(0)[0].solve()]


def test_candidates_underway_are_believed_to_score_what_is_expected_and_are_in_doubt_no_more():
    _, model, _ = informed(0)
    underway = toy.SPACE.nearest(0.375)
    before = model.predict(np.array([underway]))
    model.learn([underway])
    after = model.predict(np.array([underway]))
    assert after.met == pytest.approx(before.met, rel=0.02)
    assert after.deviations < 0.9 * before.deviations
    model.learn()
    assert model.predict(np.array([underway])).deviations == pytest.approx(before.deviations)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_exact_search_by_batches_comes_near_the_best_plan_too(batch):
    """All 4,096 are known: regret in points of accuracy, of three seeds."""
    regrets = []
    for seed in range(3):
        found = toy.search("exact", 24, seed=seed, batch=batch).history
        assert len(found) == 24
        known = [toy.evaluate(tuple(row)) for row in EVERY.tolist()]
        best = max(each.score for each in known if toy.problem().budget.met_by(each.cost))
        regrets.append(best - found.best.evaluation.score)
    assert np.mean(regrets) < 0.01
