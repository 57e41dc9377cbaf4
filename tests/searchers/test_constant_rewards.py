"""A reward that is always the same: said, and ended where nothing can be learnt."""

from dataclasses import replace

import pytest

from autoprune.errors import SignalError
from autoprune.records import Evaluation
from autoprune.searchers import Trial
from autoprune.searchers.constant_rewards import DEAD, SUSPICIOUS, ConstantRewardGuard
from helpers import toy

WARNING = "does not tell plans apart"


def plan(number, score=0.1):
    cost = toy.evaluation_of(0.5).cost
    return Evaluation(key=f"plan {number}", keep_ratios={}, widths={}, accuracy=score, cost=cost)


@pytest.fixture
def guard():
    return ConstantRewardGuard(toy.problem().objective)


def feed(observe, evaluations):
    for number, found in enumerate(evaluations, start=1):
        reward = toy.problem().objective.reward(found)
        options = {"candidate": toy.SPACE.full, "source": "x", "seconds": 0.0}
        observe(Trial(number=number, evaluation=found, reward=reward, **options))


def test_plans_that_all_score_the_same_are_a_warning(guard, messages):
    feed(guard.watch("rl"), [plan(n) for n in range(SUSPICIOUS - 1)])
    assert WARNING not in messages()
    feed(guard.watch("rl"), [plan(n) for n in range(SUSPICIOUS)])
    for text in (f"first {SUSPICIOUS} distinct plans of rl", "score 0.1000", "evaluation.recalibration_images"):
        assert text in messages()
    for text in ("data.reward_size", "constraints.min_keep_ratio", "evaluation.recovery", "another reward"):
        assert text in messages()


def test_one_plan_again_and_again_is_no_dead_signal(guard, messages):
    feed(guard.watch("rl"), [plan(0)] * 50)
    assert WARNING not in messages()


def test_a_single_difference_is_a_signal(guard, messages):
    feed(guard.watch("rl"), [plan(99, score=0.2), *(plan(n) for n in range(50))])
    assert WARNING not in messages()


def test_nothing_to_learn_ends_the_search(guard):
    with pytest.raises(SignalError, match=f"first {DEAD} distinct plans of rl are all paid exactly"):
        feed(guard.watch("rl"), [plan(n) for n in range(DEAD)])


def test_plans_as_good_as_the_dense_model_are_good_results(guard, messages):
    feed(guard.watch("rl"), [plan(n, score=toy.problem().dense.score) for n in range(50)])
    assert messages().count(WARNING) == 1


def test_another_course_may_know_better(guard, messages):
    """All plans of one are paid the same: a warning, and no end."""
    feed(guard.watch("uniform"), [plan(99, score=0.2)])
    assert WARNING not in messages()
    feed(guard.watch("rl"), [plan(n) for n in range(50)])
    assert messages().count(WARNING) == 1


def test_uniform_plans_alone_end_nothing(guard, messages):
    feed(guard.watch("uniform"), [plan(n) for n in range(50)])
    assert messages().count(WARNING) == 1


def test_failures_do_not_count(guard, messages):
    feed(guard.watch("rl"), [replace(plan(n), error="died") for n in range(50)])
    assert WARNING not in messages()


def test_a_searcher_is_ended_through_its_evaluator(guard):
    class Dead(toy.ToyEvaluator):
        def evaluate(self, candidate):
            evaluation = super().evaluate(candidate)
            return replace(evaluation, accuracy=0.1, score=0.1, cost=toy.evaluation_of(0.5).cost)

    evaluator = Dead()
    with pytest.raises(SignalError):
        toy.search("random", 60, evaluator=evaluator, observe=guard.watch("random"))
    assert evaluator.calls < 60


def test_a_course_of_an_earlier_process_speaks_against_a_dead_signal(guard):
    """As it does in the process that it ran in."""
    with pytest.raises(SignalError):
        feed(guard.watch("random"), [plan(number) for number in range(DEAD)])
    guard.remember([replace(plan("failed", 0.2), error="it broke")])
    with pytest.raises(SignalError):
        feed(guard.watch("greedy"), [plan(number) for number in range(DEAD)])
    guard.remember([plan("of uniform", 0.2)])
    feed(guard.watch("evolution"), [plan(number) for number in range(DEAD)])
