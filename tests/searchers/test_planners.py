"""Searchers that learn no policy: sensitivity and bisection, evolution, Bayesian optimisation."""

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import toy

from autoprune.cost.surrogate import Guess
from autoprune.errors import CostError
from autoprune.records import Budget, Evaluation
from autoprune.searchers import SEARCHERS, Objective, Scorer, Steering
from autoprune.searchers.choices import Choices
from autoprune.settings import RewardSettings

LEARNERS = ["greedy", "evolution", "bayes"]


def run(name, evaluations, *, problem=None, evaluator=None, steering=None, seed=0):
    scorer = Scorer(evaluator or toy.ToyEvaluator(), name, evaluations, steering=steering)
    SEARCHERS.get(name)(problem or toy.problem(), scorer, seed)
    return scorer


def keys(scorer, means):
    return [e.key for e, by in zip(scorer.course, scorer.means, strict=True) if by == means]


class Knowing:
    """Guesses that are always right."""

    ready, error = True, None

    def predict(self, widths):
        return Guess(toy.cost_of([widths[name] / toy.SIZE for name in toy.NAMES]).latency, 3000)


class Guessed(toy.ToyEvaluator):
    surrogate = Knowing()


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", LEARNERS)
def test_no_plan_is_scored_twice(name):
    scorer = run(name, 40 if name == "bayes" else 200)
    assert len({evaluation.key for evaluation in scorer.course}) == scorer.evaluations


@pytest.mark.parametrize("name", LEARNERS)
def test_a_world_of_few_plans_is_searched_to_its_end(name):
    problem = toy.problem()
    legal = type(problem.legal)(problem.groups, toy.CONSTRAINTS, {name: [32] for name in "acd"} | {"b": [16, 32]})
    scorer = run(name, 60, problem=replace(problem, legal=legal))
    assert scorer.used < 60
    assert toy.problem().objective.best(scorer.course).key == "64-16-64-32"


@pytest.mark.parametrize("name", LEARNERS)
def test_a_group_without_a_choice_stays_whole(name):
    problem = toy.problem()
    legal = type(problem.legal)(problem.groups, toy.CONSTRAINTS, {"b": [], "c": [8, 32]})
    choices = Choices(replace(problem, legal=legal))
    assert choices.names == ("a", "c", "d")
    scorer = run(name, 13, problem=replace(problem, legal=legal, anchor=0.125))
    assert {e.widths["b"] for e, by in zip(scorer.course, scorer.means, strict=True) if by != "anchor"} == {64}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_fastest_plan_above_a_floor_of_the_score_is_found_as_well(name):
    problem = toy.problem()
    objective = Objective(Budget(), problem.dense, RewardSettings("latency_at_accuracy"))
    scorers = [
        run(name, 40 if name == "bayes" else 60, problem=replace(problem, objective=objective, anchor=0.625), seed=seed)
        for seed in range(10 if name == "evolution" else 1)
    ]
    best = [objective.best(scorer.course) for scorer in scorers]
    assert min(evaluation.score for evaluation in best) >= 0.9 * problem.dense.score
    # Uniform pruning has 0.625, random search 0.40 and the best plan 0.275.
    assert np.mean([evaluation.cost.latency for evaluation in best]) < 0.34
    assert scorers[0].costed == 0, "there is no limit to compile for"


@pytest.mark.parametrize("name", LEARNERS)
def test_failures_do_not_stop_a_search(name):
    class Failing(toy.ToyEvaluator):
        def evaluate(self, keep_ratios):
            found = super().evaluate(keep_ratios)
            if found.widths["a"] == 64 and found.widths["b"] < 64:
                return Evaluation(found.key, {}, found.widths, float("nan"), None, "died")
            return found

        def cost(self, keep_ratios):
            if toy.evaluation_of(keep_ratios).widths["c"] == 48:
                raise CostError("no")
            return super().cost(keep_ratios)

    scorer = run(name, 30, evaluator=Failing())
    assert scorer.used == 30
    assert toy.problem().objective.best(scorer.course).accuracy > toy.evaluation_of(0.5).accuracy


@pytest.mark.parametrize("name", ["evolution", "bayes"])
def test_guesses_screen_proposals(name):
    steering = Steering(Knowing(), toy.problem(), screen=True)
    scorer = run(name, 20, evaluator=Guessed(), steering=steering)
    assert np.mean([toy.problem().objective.met_by(evaluation) for evaluation in scorer.course]) > 0.9


# ------------------------------------------------------------------ greedy


def test_greedy_cuts_every_group_alone_and_as_often():
    scorer = run("greedy", 26)
    probes = [[name for name, width in zip(toy.NAMES, key.split("-"), strict=True) if width != "64"]
              for key in keys(scorer, "sensitivity")]  # fmt: skip
    assert Counter(name for (name,) in probes) == dict.fromkeys(toy.NAMES, 3)
    assert scorer.means[12:14] == ["bisection", "anchor"]
    assert set(scorer.means[14:]) == {"exchange"}


def test_greedy_with_fewer_probes_than_groups_cuts_neighbours_together():
    assert keys(run("greedy", 6), "sensitivity") == ["32-32-64-64", "64-64-32-32"]


def test_greedy_compiles_what_it_claims_to_be_within_the_budget_and_counts_that():
    scorer = run("greedy", 40)
    checked = [e for e, by in zip(scorer.course, scorer.means, strict=True) if by in ("bisection", "exchange")]
    assert all(evaluation.cost.latency <= toy.BUDGET for evaluation in checked)
    assert scorer.costed > len(checked)
    assert scorer.used == 40


def test_greedy_asks_guesses_before_the_compiler():
    blind, guided = run("greedy", 40), run("greedy", 40, evaluator=Guessed())
    assert [e.key for e in guided.course] == [e.key for e in blind.course]
    assert guided.costed < 0.8 * blind.costed


def test_greedy_keeps_more_of_what_is_worth_more():
    (plan,) = keys(run("greedy", 26), "bisection")
    a, b, c, d = (int(width) for width in plan.split("-"))
    assert min(a, c) > max(b, d)


def test_probes_and_compiled_plans_are_scored_as_they_are():
    steering = Steering(Knowing(), toy.problem(), project=True)
    steered = run("greedy", 30, evaluator=Guessed(), steering=steering)
    assert [e.key for e in steered.course] == [e.key for e in run("greedy", 30, evaluator=Guessed()).course]


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
