"""Searchers that learn no policy: sensitivity and bisection, evolution, Bayesian optimisation."""

import logging
from collections import Counter

import numpy as np
import pytest

from autoprune.errors import CostError
from autoprune.records import Budget, Evaluation
from autoprune.settings import RewardSettings
from helpers import toy

LEARNERS = ["greedy", "evolution", "bayes", "rl_pruner", "dais"]


run = toy.search


def keys(evaluator, source=None):
    return [trial.evaluation.key for trial in evaluator.history if source in (None, trial.source)]


class Knowing:
    """Predictions that are always right."""

    ready, error = True, None

    def predict_all(self, widths):
        # Added up as the costs are: a plan of just the budget must not be an ulp above it.
        return np.array([toy.cost_of(ratios).latency for ratios in widths / toy.SIZE]), None

    def observe(self, widths, cost):
        pass


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", LEARNERS)
def test_no_plan_is_scored_twice(name):
    evaluator = run(name, 40 if name == "bayes" else 200)
    assert len(set(keys(evaluator))) == evaluator.evaluations


@pytest.mark.parametrize("name", LEARNERS)
def test_a_world_of_few_plans_is_searched_to_its_end(name):
    few = toy.SPACE.restrict({name: [32] for name in "acd"} | {"b": [16, 32]})
    evaluator = run(name, 60, to_search=toy.problem(space=few))
    assert evaluator.used < 60
    assert evaluator.history.best.evaluation.key == "64-16-64-32"


@pytest.mark.parametrize("name", LEARNERS)
def test_a_group_without_a_choice_stays_whole(name):
    space = toy.SPACE.restrict({"b": [], "c": [8, 32]})
    assert space.free == (0, 2, 3)
    evaluator = run(name, 13, to_search=toy.problem(space=space, anchor=0.125))
    assert {evaluation.widths["b"] for evaluation in evaluator.history.evaluations} == {64}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_fastest_plan_above_a_floor_of_the_score_is_found_as_well(name):
    problem = toy.problem(limits=Budget(), reward=RewardSettings("latency_at_accuracy"), anchor=0.625)
    evaluators = [
        run(name, 40 if name == "bayes" else 60, to_search=problem, seed=seed)
        for seed in range(10 if name == "evolution" else 1)
    ]
    best = [evaluator.history.best.evaluation for evaluator in evaluators]
    assert min(evaluation.score for evaluation in best) >= 0.9 * problem.dense.score
    # Uniform pruning has 0.625, random search 0.40 and the best plan 0.275.
    assert np.mean([evaluation.cost.latency for evaluation in best]) < 0.34
    # There is no limit to compile for; `dais` learns what the start costs, and each width.
    assert evaluators[0].costed == (5 if name == "dais" else 0)


@pytest.mark.parametrize("name", LEARNERS)
def test_failures_do_not_stop_a_search(name):
    class Failing(toy.ToyEvaluator):
        def evaluate(self, candidate):
            found = super().evaluate(candidate)
            if found.widths["a"] == 64 and found.widths["b"] < 64:
                return Evaluation(
                    key=found.key, keep_ratios={}, widths=found.widths, accuracy=float("nan"), cost=None, error="died"
                )
            return found

        def cost(self, candidate):
            if toy.evaluate(candidate).widths["c"] == 48:
                raise CostError("no")
            return super().cost(candidate)

    evaluator = run(name, 30, evaluator=Failing())
    assert evaluator.used == 30
    assert evaluator.history.best.evaluation.accuracy > toy.evaluation_of(0.5).accuracy


@pytest.mark.parametrize("name", ["evolution", "bayes"])
def test_guesses_screen_proposals(name):
    found = run(name, 20, surrogate=Knowing(), screen=True).history.evaluations
    assert max(evaluation.cost.latency for evaluation in found) <= toy.BUDGET


def test_a_batch_of_bayes_has_no_plan_twice_and_finds_as_much():
    evaluator = run("bayes", 40, batch=5)
    assert len(set(keys(evaluator))) == 40
    assert evaluator.history.best.evaluation.accuracy > toy.best_accuracy() - 0.01


# ------------------------------------------------------------------ greedy


def test_greedy_cuts_every_group_alone_and_as_often():
    evaluator = run("greedy", 26)
    probes = [[name for name, width in zip(toy.NAMES, key.split("-"), strict=True) if width != "64"]
              for key in keys(evaluator, "sensitivity")]  # fmt: skip
    assert Counter(name for (name,) in probes) == dict.fromkeys(toy.NAMES, 3)
    assert evaluator.history.sources[12:14] == ["bisection", "anchor"]
    assert set(evaluator.history.sources[14:]) == {"exchange"}


def test_greedy_with_fewer_probes_than_groups_cuts_neighbours_together():
    assert keys(run("greedy", 6), "sensitivity") == ["32-32-64-64", "64-64-32-32"]


def test_greedy_compiles_what_it_claims_to_be_within_the_budget_and_counts_that():
    evaluator = run("greedy", 40)
    checked = [trial.evaluation for trial in evaluator.history if trial.source in ("bisection", "exchange")]
    assert all(evaluation.cost.latency <= toy.BUDGET for evaluation in checked)
    assert evaluator.costed > len(checked)
    assert evaluator.used == 40


def test_greedy_asks_guesses_before_the_compiler():
    blind, guided = run("greedy", 40), run("greedy", 40, surrogate=Knowing())
    assert keys(guided) == keys(blind)
    assert guided.costed < 0.8 * blind.costed


def test_greedy_keeps_more_of_what_is_worth_more():
    (plan,) = keys(run("greedy", 26), "bisection")
    a, b, c, d = (int(width) for width in plan.split("-"))
    assert min(a, c) > max(b, d)


def test_probes_and_compiled_plans_are_scored_as_they_are():
    assert keys(run("greedy", 30, surrogate=Knowing(), project=True)) == keys(run("greedy", 30, surrogate=Knowing()))


# ------------------------------------------------------------------ libraries


def test_optuna_says_nothing_and_keeps_its_own_settings(capfd):
    import optuna
    import torch

    before = optuna.logging.get_verbosity(), torch.get_num_threads()
    optuna.logging.set_verbosity(logging.INFO)
    run("bayes", 12)
    assert optuna.logging.get_verbosity() == logging.INFO
    assert torch.get_num_threads() == before[1]
    optuna.logging.set_verbosity(before[0])
    assert capfd.readouterr().err == ""
