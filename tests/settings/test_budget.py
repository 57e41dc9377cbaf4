"""Budgets, rewards and several targets as they are asked for: what is understood, and what is refused."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from autoprune.errors import SettingsError
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings import (
    BudgetSettings,
    EvaluationSettings,
    MeasureSettings,
    RewardSettings,
    SearchSettings,
    TargetSettings,
    from_config,
)


@pytest.mark.parametrize(
    ("option", "value", "dense", "absolute"),
    [
        ("latency", 0.6, 100e-6, 60e-6),
        ("latency", 1, 100e-6, 100e-6),
        ("latency", "0.6", 100e-6, 60e-6),
        ("latency", "200us", 1.0, 200e-6),
        ("latency", "200 µs", 1.0, 200e-6),
        ("latency", "0.3ms", 1.0, 0.3e-3),
        ("latency", "1e-3s", 1.0, 1e-3),
        ("latency", "750ns", 1.0, 750e-9),
        ("memory", 0.5, 3000, 1500),
        ("memory", "12MiB", 1, 12 * 2**20),
        ("memory", "1GiB", 1, 2**30),
        ("memory", "500kB", 1, 500_000),
        ("memory", "500KB", 1, 500_000),
        ("memory", "100B", 1, 100),
    ],
)
def test_limits_are_shares_or_amounts(option, value, dense, absolute):
    limit = BudgetSettings(**{"latency": None, option: value}).limits[option]
    assert limit.absolute(dense) == pytest.approx(absolute)


@pytest.mark.parametrize("option", ["latency", "memory"])
@pytest.mark.parametrize(
    "value", [0, -0.1, 1.5, 200, "-1", True, float("nan"), float("inf"), "half", "", [0.5], "1.2.3"]
)
def test_what_is_neither_is_refused_with_both_ways_of_saying_it(option, value):
    with pytest.raises(SettingsError) as refused:
        BudgetSettings(**{option: value})
    said = str(refused.value)
    assert f"budget.{option} must be a share of the dense model's, above 0 and at most 1 (0.5 is half)" in said
    assert ("200us" if option == "latency" else "12MiB") in said
    assert f"Received: {value}" in said


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("latency", "0us", "above 0 and finite"),
        ("latency", "-5us", "above 0 and finite"),
        ("latency", "200mb", "There is no unit 'mb' for it"),
        ("latency", "12MiB", "There is no unit 'MiB' for it"),
        ("latency", "60%", "There is no unit '%' for it"),
        ("latency", "5usec", "There is no unit 'usec' for it. Did you mean 'us'"),
        ("memory", "200us", "There is no unit 'us' for it"),
        ("memory", "12mib", "There is no unit 'mib' for it. Known: B, GB, GiB"),
        ("memory", "0GiB", "above 0 and finite"),
    ],
)
def test_amounts_that_cannot_be_are_refused(option, value, message):
    with pytest.raises(SettingsError) as refused:
        BudgetSettings(**{option: value})
    assert message in str(refused.value)


def test_figures_are_told_in_the_unit_that_was_asked_for():
    limits = BudgetSettings("200us", "12MiB").limits
    assert limits["latency"].describe(61.5e-6, 1.0) == "61.5us"
    assert limits["memory"].describe(2**21, 1) == "2MiB"
    assert BudgetSettings(0.5).limits["latency"].describe(0.25, 1.0) == "0.25"


def test_what_is_told_as_possible_can_be_asked_for():
    """Rounded down it could not: the plan would be over the budget by the digits that were dropped."""
    for amount in (61.50001e-6, 1 / 3e4, 0.123456):
        for asked in ("1us", "1ms", "1s", 0.5):
            told = BudgetSettings(asked).limits["latency"].describe(amount, 1.0)
            again = BudgetSettings(told).limits["latency"].absolute(1.0)
            assert amount <= again * (1 + 1e-9)
            assert again == pytest.approx(amount, rel=1e-3, abs=1e-3 if asked == 0.5 else 0)


def test_a_search_has_a_limit_unless_its_reward_needs_none():
    with pytest.raises(SettingsError, match="budget must be a latency or memory limit"):
        SearchSettings(budget=BudgetSettings(None, None))
    SearchSettings(budget=BudgetSettings(None, None), reward=RewardSettings("latency_at_accuracy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accuracy_floor": 0.0}, "reward.accuracy_floor must be"),
        ({"accuracy_floor": 1.01}, "reward.accuracy_floor must be"),
        ({"accuracy_floor": -0.5}, "reward.accuracy_floor must be"),
        ({"penalty": -1.0}, "reward.penalty must be 0 or more"),
        ({"penalty": float("inf")}, "reward.penalty must be 0 or more, and finite. Received: inf"),
        ({"penalty": float("nan")}, "reward.penalty must be 0 or more, and finite. Received: nan"),
        ({"exponent": float("-inf")}, "reward.exponent must be 0 or less, and finite"),
        ({"exponent": 0.07}, "reward.exponent must be 0 or less"),
        ({"exponent_within": 1.0}, "reward.exponent_within must be 0 or less"),
    ],
)
def test_rewards_that_cannot_be_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        RewardSettings(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"also": ["tpu_v5e"]}, "target.also must be targets other than target.name"),
        ({"also": ["tpu_v3", "tpu_v3"]}, "each once"),
        ({"also": ["cpu"]}, "TPU targets beside a TPU target"),
        ({"also": ["tpu_v3"], "combine": "best"}, "target.combine must be one of worst, weighted"),
        ({"also": ["tpu_v3"], "weights": [1.0, 2.0]}, "given with target.combine=weighted"),
        ({"also": ["tpu_v3"], "combine": "weighted", "weights": [1.0]}, "a number above 0 for each of tpu_v5e, tpu_v3"),
        ({"also": ["tpu_v3"], "combine": "weighted", "weights": [1.0, 0.0]}, "a number above 0"),
    ],
)
def test_targets_that_do_not_combine_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        TargetSettings("tpu_v5e", **options)


@pytest.mark.parametrize("budget", [BudgetSettings("200us"), BudgetSettings(0.5, "12MiB")])
def test_amounts_on_several_targets_are_refused(budget):
    with pytest.raises(SettingsError, match="means something else on every target"):
        SearchSettings(target=TargetSettings("tpu_v5e", also=["tpu_v3"]), budget=budget)


def test_measuring_takes_no_further_targets():
    with pytest.raises(SettingsError, match="target=all costs on every TPU"):
        MeasureSettings(target=TargetSettings("tpu_v5e", also=["tpu_v3"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sparsity": "5:4"},
            "sparsity must be N:M with N from 1 to M, such as 2:4, gsB or .* null. Received: 5:4",
        ),
        ({"sparsity": "half"}, "sparsity must be N:M"),
        ({"sparsity": "gs1"}, "B from 2 to 256 and R from 1 to B, such as gs16, or null. Received: gs1"),
        ({"sparsity": "gs512"}, "B from 2 to 256 .* Received: gs512"),
        ({"sparsity": "gs8x9"}, "R from 1 to B, .* Received: gs8x9"),
        ({"sparsity": "gs8:4"}, "such as gs16, or null. Received: gs8:4"),
        ({"sparsity": "gs8", "density": 1.0}, "density must be above 0 and below 1, .* Received: 1.0"),
        ({"sparsity": "2:4", "density": 0.5}, "with sparsity=gsB or gsBxR, or null. Received: 0.5"),
        ({"density": 0.5}, "with sparsity=gsB or gsBxR, or null. Received: 0.5"),
        ({"sparsity": "gs8", "block": 8}, "block must be a multiple of M, with sparsity=N:M, or null. Received: 8"),
        ({"sparsity": "2:4", "block": 6}, "block must be a multiple of M, with sparsity=N:M, or null. Received: 6"),
        ({"block": 8}, "block must be a multiple of M, with sparsity=N:M, or null. Received: 8"),
        ({"sparsity": "2:4", "block_share": 1.0}, "block_share must be from 0 to below 1. Received: 1.0"),
    ],
)
def test_impossible_patterns_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        MeasureSettings(**options)


def test_settings_survive_the_run_folder(tmp_path):
    several = TargetSettings("tpu_v5e", also=["tpu_v3"], combine="weighted", weights=[1.0, 2.0])
    floor = RewardSettings("latency_at_accuracy", accuracy_floor=0.95)
    for changes in (
        {"budget": BudgetSettings("200us", "12MiB")},
        {"budget": BudgetSettings(0.5, 0.25)},
        {"budget": BudgetSettings(None, None), "reward": floor},
        {"target": several},
    ):
        settings = SearchSettings(**changes)
        folder = RunFolder.make(tmp_path)
        folder.save_settings(settings)
        assert folder.load_settings(SearchSettings) == settings
        assert from_config(OmegaConf.create(dataclasses.asdict(settings)), SearchSettings) == settings


def test_a_floor_of_the_accuracy_makes_accuracy_the_score_unless_another_is_asked_for():
    floored = RewardSettings("latency_at_accuracy")
    asked = EvaluationSettings(score="agreement")
    assert SearchSettings().evaluation.score == "likelihood"
    assert SearchSettings(reward=floored).evaluation.score == "accuracy"
    assert SearchSettings(reward=floored, evaluation=asked).evaluation.score == "agreement"
