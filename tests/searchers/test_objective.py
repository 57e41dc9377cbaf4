"""What a plan is paid for, and which plan is best."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from autoprune.records import Budget, Evaluation
from autoprune.searchers.objective import FAILED, REWARDS, Objective, Outcomes, outcome_of, unlikeness
from autoprune.settings import RewardSettings
from helpers import toy

BUDGETED = Budget(latency=0.5)


def terms_of(evaluation, dense, budget, settings):
    return Objective(budget, dense, settings).terms(evaluation)


def with_latency(accuracy, latency):
    evaluation = toy.evaluation_of(latency)
    return Evaluation(key="k", keep_ratios={}, widths={}, accuracy=accuracy, cost=evaluation.cost)


def test_within_the_budget_only_accuracy_counts():
    dense = toy.evaluation_of(1.0)
    terms = terms_of(with_latency(0.5, 0.5), dense, BUDGETED, RewardSettings())
    assert terms == {"accuracy": pytest.approx(0.5 / dense.accuracy), "over_budget": 0.0}


def test_over_the_budget_costs_in_proportion():
    dense = toy.evaluation_of(1.0)
    terms = terms_of(with_latency(0.5, 0.75), dense, BUDGETED, RewardSettings(penalty=3.0))
    assert terms["over_budget"] == pytest.approx(-3.0 * 0.5)


def test_memory_counts_as_latency_does():
    dense = toy.evaluation_of(1.0)
    terms = terms_of(with_latency(0.5, 0.25), dense, Budget(memory=2000), RewardSettings())
    assert terms["over_budget"] == pytest.approx(-2.0 * 0.5)


def test_mnasnet_is_the_product_of_the_paper():
    dense = toy.evaluation_of(1.0)
    terms = terms_of(with_latency(0.5, 0.25), dense, BUDGETED, RewardSettings("mnasnet", exponent=-0.07))
    assert sum(terms.values()) == pytest.approx(0.5 / dense.accuracy * 0.5**-0.07)


def test_failed_plan_is_paid_worse_than_any_other():
    dense = toy.evaluation_of(1.0)
    failed = Evaluation(key="k", keep_ratios={}, widths={}, accuracy=float("nan"), cost=None, error="died")
    for name in REWARDS:
        objective = Objective(BUDGETED, dense, RewardSettings(name))
        assert set(objective.terms(failed)) == {"failed"}
        worst = min(objective.reward(with_latency(accuracy, share)) for accuracy in (0, 0.5, 1) for share in (0.2, 1))
        assert objective.reward(failed) <= min(FAILED, worst)


def test_mnasnet_can_be_hard_as_in_the_paper():
    """Alpha 0 and beta -1: within the limit latency does not count, above it by its whole excess."""
    dense, hard = toy.evaluation_of(1.0), RewardSettings("mnasnet", exponent=-1.0, exponent_within=0.0)
    score = 0.5 / dense.score
    assert sum(terms_of(with_latency(0.5, 0.25), dense, BUDGETED, hard).values()) == pytest.approx(score)
    assert sum(terms_of(with_latency(0.5, 1.0), dense, BUDGETED, hard).values()) == pytest.approx(score / 2)
    soft = RewardSettings("mnasnet", exponent=-0.07, exponent_within=-0.07)
    for latency in (0.25, 1.0):
        plan = with_latency(0.5, latency)
        assert terms_of(plan, dense, BUDGETED, soft) == terms_of(plan, dense, BUDGETED, RewardSettings("mnasnet"))


def test_mnasnet_without_a_latency_limit_takes_the_dense_latency():
    dense = toy.evaluation_of(1.0)
    terms = terms_of(with_latency(0.5, 0.25), dense, Budget(memory=3000), RewardSettings("mnasnet"))
    assert sum(terms.values()) == pytest.approx(0.5 / dense.score * 0.25**-0.07)


def test_amc_rewards_are_those_of_the_paper():
    dense, plan = toy.evaluation_of(1.0), with_latency(0.7, 0.75)
    error = 0.3
    flops = plan.cost.flops / plan.cost.target.batch_size

    def paid(name):
        return sum(terms_of(plan, dense, BUDGETED, RewardSettings(name)).values())

    assert paid("amc_flops") == pytest.approx(-error * np.log(flops))
    assert paid("amc_latency") == pytest.approx(-error * np.log(0.75e9))
    assert paid("amc_error") == pytest.approx(-error - 2.0 * 0.5)
    assert sum(terms_of(with_latency(0.7, 0.5), dense, BUDGETED, RewardSettings("amc_error")).values()) == (
        pytest.approx(-error)
    )


def test_an_error_is_never_paid_for():
    """However small the latency: a logarithm below zero would turn the reward round."""
    dense = toy.evaluation_of(1.0)
    for latency in (1e-12, 1e-9, 1e-6):
        plan = with_latency(0.7, 0.5)
        plan = replace(plan, cost=replace(plan.cost, latency=latency, flops=1))
        for name in ("amc_latency", "amc_flops"):
            assert sum(terms_of(plan, dense, BUDGETED, RewardSettings(name)).values()) < 0


# ------------------------------------------------------------------ an accuracy floor

FLOOR = RewardSettings("latency_at_accuracy", accuracy_floor=0.5)


def test_above_the_floor_only_latency_counts():
    dense = toy.evaluation_of(1.0)
    terms = terms_of(with_latency(0.6, 0.25), dense, Budget(), FLOOR)
    assert terms == {"time_saved": pytest.approx(0.75), "below_floor": 0.0, "over_budget": 0.0}
    assert terms_of(with_latency(0.9, 0.25), dense, Budget(), FLOOR) == terms


def test_below_the_floor_costs_in_proportion():
    dense = toy.evaluation_of(1.0)
    floor = 0.5 * dense.score
    terms = terms_of(with_latency(0.8 * floor, 0.25), dense, Budget(), replace(FLOOR, penalty=3.0))
    assert terms["below_floor"] == pytest.approx(-3.0 * 0.2)
    assert terms_of(with_latency(0.6, 0.75), dense, BUDGETED, FLOOR)["over_budget"] == pytest.approx(-1.0)


def test_what_is_below_the_floor_is_no_result():
    objective = Objective(Budget(), toy.evaluation_of(1.0), FLOOR)
    slow, fast, wrong = with_latency(0.9, 0.9), with_latency(0.5, 0.3), with_latency(0.49, 0.1)
    assert objective.floor == pytest.approx(0.5)
    assert not objective.met_by(wrong)
    assert objective.met_by(fast)
    assert objective.best([slow, fast, wrong]) is fast
    assert objective.best([wrong]) is None


def test_a_budget_holds_beside_the_floor():
    objective = Objective(BUDGETED, toy.evaluation_of(1.0), FLOOR)
    assert not objective.met_by(with_latency(0.9, 0.9))


def test_rewards_without_a_floor_ignore_it():
    objective = Objective(BUDGETED, toy.evaluation_of(1.0), RewardSettings(accuracy_floor=1.0))
    assert objective.floor is None
    assert objective.met_by(with_latency(0.1, 0.5))


def test_every_reward_has_a_config_and_finite_terms():
    from autoprune.options import config_groups

    assert set(REWARDS) == set(config_groups()["reward"])
    dense = toy.evaluation_of(1.0)
    for name in REWARDS:
        terms = terms_of(toy.evaluation_of(0.7), dense, BUDGETED, RewardSettings(name))
        assert all(np.isfinite(value) for value in terms.values())


def test_unknown_reward_suggests_the_near_one():
    from autoprune.errors import UnknownNameError

    with pytest.raises(UnknownNameError, match="no reward 'mnasnett'. Did you mean 'mnasnet'"):
        terms_of(toy.evaluation_of(1.0), toy.evaluation_of(1.0), BUDGETED, RewardSettings("mnasnett"))


def test_best_ignores_what_failed_or_is_over_the_budget():
    objective = Objective(BUDGETED, toy.evaluation_of(1.0), RewardSettings())
    failed = Evaluation(key="f", keep_ratios={}, widths={}, accuracy=0.99, cost=None, error="died")
    inside, tie = toy.evaluation_of(0.5), toy.evaluation_of(0.5)
    assert objective.best([failed, toy.evaluation_of(1.0)]) is None
    assert objective.best([failed, toy.evaluation_of(1.0), toy.evaluation_of(0.25), inside, tie]) is inside


def test_a_score_that_is_no_number_is_no_score():
    """Sorted by it, finalists would come in any order."""
    objective = Objective(BUDGETED, toy.evaluation_of(1.0), RewardSettings())
    broken = replace(toy.evaluation_of(0.375), score=float("nan"))
    plans = [toy.evaluation_of(0.25), broken, toy.evaluation_of(0.5), toy.evaluation_of(0.125)]
    assert broken.failed
    assert objective.reward(broken) <= FAILED
    assert objective.finalists(plans, 9, apart=0.0) == [plans[2], plans[0], plans[3]]


def test_what_a_deviation_of_the_score_makes_of_every_reward():
    """Rewards are linear in the score, from the floor on where there is one."""
    dense = toy.evaluation_of(1.0)
    for name in REWARDS:
        objective = Objective(BUDGETED, dense, RewardSettings(name, accuracy_floor=0.5))
        for score, deviation in ((0.6, 0.01), (0.7, 0.1), (0.9, 0.05)):
            for latency in (0.3, 0.5):
                low, high = (objective.reward(with_latency(s, latency)) for s in (score - deviation, score + deviation))
                found = objective.deviations(outcome_of(with_latency(score, latency)), deviation)
                assert found == pytest.approx((high - low) / 2, rel=1e-6, abs=1e-12), name
        assert (found == 0) == (objective.floor is not None)


@pytest.mark.parametrize("budget", [Budget(), BUDGETED, Budget(memory=2500), Budget(0.5, 2500)])
def test_many_plans_at_once_are_paid_what_each_is_paid_alone(budget):
    dense = toy.evaluation_of(1.0)
    plans = [toy.evaluation_of(ratio) for ratio in (0.125, 0.375, 0.5, 0.625, 1.0)]
    together = Outcomes(
        **{each.name: np.array([getattr(outcome_of(plan), each.name) for plan in plans]) for each in fields(Outcomes)}
    )
    for name in REWARDS:
        objective = Objective(budget, dense, RewardSettings(name))
        alone = [objective.reward(plan) for plan in plans]
        np.testing.assert_array_equal(objective.rewards(together), alone, err_msg=name)
        deviations = [objective.deviations(outcome_of(plan), 0.02) for plan in plans]
        np.testing.assert_array_equal(np.broadcast_to(objective.deviations(together, 0.02), 5), deviations)


def test_finalists_are_the_best_that_are_unlike_each_other():
    objective = Objective(Budget(0.6), toy.evaluation_of(1.0), RewardSettings())
    best, near, far, over = (
        toy.evaluation_of(dict(zip(toy.NAMES, ratios, strict=True)))
        for ratios in ((1, 0.375, 1, 0.25), (0.875, 0.375, 1, 0.25), (0.5, 0.5, 0.5, 0.5), (1, 1, 1, 1))
    )
    rewards = [objective.reward(evaluation) for evaluation in (best, near, far)]
    assert rewards == sorted(rewards, reverse=True)
    assert unlikeness(best, near) == pytest.approx(math.log(64 / 56) / 4)
    course = [far, near, over, best, best]
    assert objective.finalists(course, 1) == [best]
    assert objective.finalists(course, 2) == [best, far]
    assert objective.finalists(course, 3) == [best, far, near], "where too few differ, the best of the rest"
    assert objective.finalists(course, 9) == [best, far, near]
    assert objective.finalists(course, 2, apart=0.0) == [best, near], "of plans on a line the best"
    assert objective.finalists([over], 2) == []
