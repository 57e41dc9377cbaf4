"""A reward that is always the same: said, and ended where nothing can be learnt."""

from dataclasses import replace

import pytest
import toy

from autoprune.errors import SignalError
from autoprune.records import Evaluation
from autoprune.searchers import Objective, Scorer
from autoprune.searchers.random_search import random
from autoprune.searchers.signal_watch import DEAD, SUSPICIOUS, SignalWatch

WARNING = "does not tell plans apart"


def plan(number, score=0.1):
    cost = toy.evaluation_of(0.5).cost
    return Evaluation(f"plan {number}", {}, {}, score, cost)


@pytest.fixture
def watch():
    return SignalWatch(toy.problem().objective)


def feed(observe, evaluations):
    for number, evaluation in enumerate(evaluations, start=1):
        observe(evaluation, number)


def test_plans_that_all_score_the_same_are_a_warning(watch, messages):
    feed(watch.of("rl"), [plan(n) for n in range(SUSPICIOUS - 1)])
    assert WARNING not in messages()
    feed(watch.of("rl"), [plan(n) for n in range(SUSPICIOUS)])
    for text in (f"first {SUSPICIOUS} distinct plans of rl", "score 0.1000", "evaluation.recalibration_images"):
        assert text in messages()
    for text in ("data.reward_size", "constraints.min_keep_ratio", "evaluation.recovery", "another reward"):
        assert text in messages()


def test_one_plan_again_and_again_is_no_dead_signal(watch, messages):
    feed(watch.of("rl"), [plan(0)] * 50)
    assert WARNING not in messages()


def test_a_single_difference_is_a_signal(watch, messages):
    feed(watch.of("rl"), [plan(99, score=0.2), *(plan(n) for n in range(50))])
    assert WARNING not in messages()


def test_nothing_to_learn_ends_the_search(watch):
    with pytest.raises(SignalError, match=f"first {DEAD} distinct plans of rl are all paid exactly"):
        feed(watch.of("rl"), [plan(n) for n in range(DEAD)])


def test_plans_as_good_as_the_dense_model_are_good_results(watch, messages):
    feed(watch.of("rl"), [plan(n, score=toy.problem().dense.score) for n in range(50)])
    assert messages().count(WARNING) == 1


def test_another_course_may_know_better(watch):
    feed(watch.of("uniform"), [plan(99, score=0.2)])
    feed(watch.of("rl"), [plan(n) for n in range(50)])


def test_uniform_plans_alone_end_nothing(watch, messages):
    feed(watch.of("uniform"), [plan(n) for n in range(50)])
    assert messages().count(WARNING) == 1


def test_failures_do_not_count(watch, messages):
    feed(watch.of("rl"), [replace(plan(n), error="died") for n in range(50)])
    assert WARNING not in messages()


def test_a_searcher_is_ended_through_its_scorer():
    class Dead(toy.ToyEvaluator):
        def evaluate(self, keep_ratios):
            evaluation = super().evaluate(keep_ratios)
            return replace(evaluation, accuracy=0.1, score=0.1, cost=toy.evaluation_of(0.5).cost)

    problem = toy.problem()
    watch = SignalWatch(Objective(problem.budget, problem.dense, problem.objective.settings))
    scorer = Scorer(Dead(), "random", 60, watch.of("random"))
    with pytest.raises(SignalError):
        random(problem, scorer, 0)
    assert scorer.used < 60


def test_a_course_of_an_earlier_process_speaks_against_a_dead_signal(watch):
    """As it does in the process that it ran in."""
    with pytest.raises(SignalError):
        feed(watch.of("random"), [plan(number) for number in range(DEAD)])
    watch.remember([replace(plan("failed", 0.2), error="it broke")])
    with pytest.raises(SignalError):
        feed(watch.of("greedy"), [plan(number) for number in range(DEAD)])
    watch.remember([plan("of uniform", 0.2)])
    feed(watch.of("evolution"), [plan(number) for number in range(DEAD)])
