"""The widest plan within a budget, found without costing every wider one."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoprune.searchers.bracketing import MARGIN, find_widest

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "bracketing.json"
CURVES = {row["case"]: row["latencies"] for row in json.loads(RESULTS.read_text())}


def search(excesses):
    """The plan that is found, which plans were costed in their order, and what was told to be left after each."""
    costed, left = [], []

    def overrun(number):
        costed.append(number)
        return excesses[number]

    return find_widest(len(excesses), overrun, left.append), costed, left


def walk(excesses):
    """The same plan by costing all from wide to narrow."""
    return next((number for number, excess in enumerate(excesses) if excess is not None and excess <= 0), None)


def test_a_budget_out_of_reach_costs_two_plans():
    assert search(np.linspace(2, 0.5, 50)) == (None, [0, 49], [49, 0])


def test_a_dense_model_within_the_budget_is_the_only_one_that_is_costed():
    assert search(np.linspace(-0.1, -0.9, 50)) == (0, [0], [0])
    assert search([-0.5]) == (0, [0], [0])
    assert search([0.5]) == (None, [0], [0])


@pytest.mark.parametrize("widest", [1, 7, 30, 48, 49])
def test_of_a_steep_fall_the_widest_is_found_by_halving(widest):
    excesses = [0.5] * widest + [-0.5] * (50 - widest)
    found, costed, left = search(excesses)
    assert found == widest
    assert len(costed) == len(set(costed)) <= 8
    assert left[-1] == 0
    # What is told never grows, and was enough.
    assert left == sorted(left, reverse=True)
    assert all(len(costed) - number <= more for number, more in enumerate(left, start=1))


def test_a_wider_plan_that_is_faster_than_a_narrower_one_is_not_missed():
    """Halving alone ends at 12: plans 8 to 11 are over the budget, 7 is not."""
    excesses = np.concatenate(
        [np.linspace(0.7, 0.08, 7), [-0.01, 0.04, 0.05, 0.06, 0.01], np.linspace(-0.01, -0.5, 20)]
    )
    found, costed, _ = search(excesses)
    assert found == walk(excesses) == 7
    assert len(costed) < 20


def test_a_narrowest_plan_that_is_slower_than_others_does_not_end_it():
    excesses = [0.06, 0.05, 0.02, -0.01, 0.01, 0.03, 0.05]
    assert search(excesses)[0] == 3


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_out_lies_between_plans_that_are_well_over_the_budget(seed):
    generator = np.random.default_rng(seed)
    excesses = np.linspace(0.8, generator.uniform(-0.6, 0.2), 40) + generator.normal(0, 0.05, 40)
    found, costed, _ = search(excesses)
    for number in range(40 if found is None else found):
        if number in costed:
            assert excesses[number] > 0
        else:
            wider = max(other for other in costed if other < number)
            narrower = min(other for other in costed if other > number)
            assert min(excesses[wider], excesses[narrower]) >= MARGIN


def test_plans_without_a_cost_are_passed_over_wherever_they_are():
    excesses = [0.9, None, 0.5, None, 0.2, -0.1, None, -0.3, None, None]
    assert search(excesses)[0] == 5
    assert search([None, None, 0.5, -0.1])[0] == 3
    assert search([None, None, None]) == (None, [0, 1, 2], [2, 1, 0])


@pytest.mark.parametrize("case", CURVES)
def test_on_real_networks_it_is_what_costing_every_wider_plan_gives(case):
    """Uniform plans of the networks in `tests/benchmarks/bracketing.py`, for budgets in steps of half a per cent."""
    latencies = np.array(CURVES[case])
    few, all_wider = 0, 0
    for share in np.arange(0.1, 1, 0.005):
        excesses = latencies / (share * latencies[0]) - 1
        found, costed, _ = search(excesses)
        assert found == walk(excesses), share
        few += len(costed)
        all_wider += len(latencies) if found is None else found + 1
    assert few < 0.8 * all_wider
