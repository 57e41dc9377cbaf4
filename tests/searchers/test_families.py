"""Plans set by hand, on a network of unequal groups whose latency is not monotone in the keep ratio."""

from dataclasses import replace

import numpy as np
import pytest

from autoprune.errors import CostError
from autoprune.planning import Dimension, SearchSpace
from autoprune.planning.space import legal_widths
from autoprune.records import Budget, Evaluation
from helpers import toy

SIZES = {"a": 24, "b": 64, "c": 128, "d": 32}
SPACE = SearchSpace(
    [Dimension(name, tuple(legal_widths(size, toy.CONSTRAINTS)), np.arange(size)) for name, size in SIZES.items()],
    toy.CONSTRAINTS.min_keep_ratio,
)
RATIOS = np.linspace(1, toy.CONSTRAINTS.min_keep_ratio, 64)


class Uneven(toy.ToyEvaluator):
    """Every channel takes as long as any other; a c that is no multiple of 32 as long as the next one and 12 more."""

    def __init__(self, broken=()):
        super().__init__(SPACE)
        self.broken = broken

    def cost(self, candidate):
        widths = SPACE.by_name(candidate)
        if tuple(widths.values()) in self.broken:
            raise CostError("no")
        time = sum(widths.values()) + (-widths["c"] % 32 + 12 if widths["c"] % 32 else 0)
        return replace(toy.cost_of([1, 1, 1, 1]), latency=time / sum(SIZES.values()))

    def evaluate(self, candidate):
        widths = SPACE.by_name(candidate)
        key = "-".join(str(width) for width in widths.values())
        return Evaluation(key=key, keep_ratios={}, widths=widths, accuracy=0.5, cost=self.cost(candidate))

    def problem(self, latency):
        problem = toy.problem()
        objective = replace(problem.objective, budget=Budget(latency), dense=self.evaluate(SPACE.full))
        return replace(problem, space=SPACE, objective=objective, anchor=0.2)


def skipping(ratio):
    return {**SPACE.by_name(SPACE.nearest(ratio)), "a": SIZES["a"], "d": SIZES["d"]}


def rounded_down(ratio):
    widths = {name: legal_widths(size, toy.CONSTRAINTS) for name, size in SIZES.items()}
    return {
        name: max(width for width in widths[name] if width <= max(ratio * size, widths[name][0]))
        for name, size in SIZES.items()
    }


RULES = {"uniform_skip": skipping, "uniform_width": rounded_down}


def run(name, latency, evaluations=100, evaluator=None):
    evaluator = evaluator or Uneven()
    return toy.search(name, evaluations, to_search=evaluator.problem(latency), evaluator=evaluator)


def scored(budgeted):
    return [tuple(evaluation.widths.values()) for evaluation in budgeted.history.evaluations]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("latency", [0.8, 0.65, 0.6])
def test_the_widest_within_the_budget_comes_first_and_then_the_whole_family(name, latency):
    budgeted = run(name, latency)
    family = list(dict.fromkeys(tuple(RULES[name](ratio).values()) for ratio in RATIOS))
    candidates = [SPACE.find(dict(zip(SIZES, widths, strict=True))) for widths in family]
    first = [Uneven().cost(candidate).latency <= latency for candidate in candidates].index(True)
    assert scored(budgeted) == [*family[first:], *family[:first]]
    assert budgeted.costed < len(family)


@pytest.mark.parametrize("name", RULES)
def test_a_single_evaluation_goes_to_the_widest_within_the_budget(name):
    (only,) = run(name, 0.75, 1).history
    assert only.candidate == run(name, 0.75).history[0].candidate
    assert only.evaluation.cost.latency <= 0.75


@pytest.mark.parametrize("name", RULES)
def test_the_rules_are_not_one_rule(name):
    flat = {SPACE.nearest(ratio) for ratio in RATIOS}
    assert len({trial.candidate for trial in run(name, 0.75).history} - flat) > 3


def test_a_family_beyond_the_budget_is_stood_for_by_the_anchor(messages):
    first = run("uniform_skip", 0.2).history[0]
    assert "no plan of uniform_skip meets the budget" in messages()
    assert first.source == "anchor"
    assert first.evaluation.widths == {"a": 8, "b": 16, "c": 24, "d": 8}


def test_plans_that_cannot_be_compiled_are_passed_over():
    widest = scored(run("uniform_width", 0.75))[0]
    budgeted = run("uniform_width", 0.75, 1, Uneven({widest}))
    assert scored(budgeted) != [widest]
    assert budgeted.history[0].evaluation.cost.latency <= 0.75
