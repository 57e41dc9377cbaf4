"""What a plan is paid for, and which plan is best."""

import numpy as np
import pytest
import toy

from autoprune.records import Budget, Evaluation
from autoprune.searchers.objective import FAILED, REWARDS, Objective
from autoprune.settings import RewardSettings

BUDGETED = Budget(latency=0.5)


def terms_of(evaluation, dense, budget, settings):
    return Objective(budget, dense, settings).terms(evaluation)


def with_latency(accuracy, latency):
    evaluation = toy.evaluation_of(latency)
    return Evaluation("k", {}, {}, accuracy, evaluation.cost)


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
    failed = Evaluation("k", {}, {}, float("nan"), None, "died")
    assert terms_of(failed, dense, BUDGETED, RewardSettings()) == {"failed": FAILED}


def test_every_reward_has_a_config_and_finite_terms():
    from autoprune.cli import config_groups

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
    failed = Evaluation("f", {}, {}, 0.99, None, "died")
    inside, tie = toy.evaluation_of(0.5), toy.evaluation_of(0.5)
    assert objective.best([failed, toy.evaluation_of(1.0)]) is None
    assert objective.best([failed, toy.evaluation_of(1.0), toy.evaluation_of(0.25), inside, tie]) is inside
