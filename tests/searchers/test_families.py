"""Plans set by hand, on a network of unequal groups whose latency is not monotone in the keep ratio."""

from dataclasses import replace

import numpy as np
import pytest
import toy

from autoprune.errors import CostError
from autoprune.planning.widths import LegalWidths
from autoprune.records import Budget, ChannelGroup, Evaluation, Member
from autoprune.searchers import SEARCHERS, Scorer

SIZES = {"a": 24, "b": 64, "c": 128, "d": 32}
RATIOS = np.linspace(1, toy.CONSTRAINTS.min_keep_ratio, 64)


class Uneven(toy.ToyEvaluator):
    """Every channel takes as long as any other; a c that is no multiple of 32 as long as the next one and 12 more."""

    def __init__(self, broken=()):
        super().__init__()
        member = lambda name, size: Member(name, "kernel", 3, "produces", np.arange(size))  # noqa: E731
        self.groups = tuple(ChannelGroup(n, s, True, "", (member(n, s),)) for n, s in SIZES.items())
        self.legal = LegalWidths(self.groups, toy.CONSTRAINTS)
        self.broken = broken

    def cost(self, keep_ratios):
        widths = self.legal.all_nearest(keep_ratios)
        if tuple(widths.values()) in self.broken:
            raise CostError("no")
        time = sum(widths.values()) + (-widths["c"] % 32 + 12 if widths["c"] % 32 else 0)
        return replace(toy.cost_of([1, 1, 1, 1]), latency=time / sum(SIZES.values()))

    def evaluate(self, keep_ratios):
        widths = self.legal.all_nearest(keep_ratios)
        key = "-".join(str(width) for width in widths.values())
        return Evaluation(key, {}, widths, 0.5, self.cost(keep_ratios))

    def problem(self, latency):
        problem = toy.problem()
        objective = replace(problem.objective, budget=Budget(latency), dense=self.evaluate(1.0))
        return replace(problem, groups=self.groups, legal=self.legal, objective=objective, anchor=0.2)


def skipping(legal, ratio):
    return {**legal.all_nearest(ratio), "a": SIZES["a"], "d": SIZES["d"]}


def rounded_down(legal, ratio):
    return {name: max(w for w in [legal.of(name)[0], *legal.of(name)] if w <= max(ratio * size, legal.of(name)[0]))
            for name, size in SIZES.items()}  # fmt: skip


RULES = {"uniform_skip": skipping, "uniform_width": rounded_down}


def run(name, latency, evaluations=100, evaluator=None):
    evaluator = evaluator or Uneven()
    scorer = Scorer(evaluator, name, evaluations)
    SEARCHERS.get(name)(evaluator.problem(latency), scorer, 0)
    return evaluator, scorer


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("latency", [0.8, 0.65, 0.6])
def test_the_widest_within_the_budget_comes_first_and_then_the_whole_family(name, latency):
    evaluator, scorer = run(name, latency)
    family = list(dict.fromkeys(tuple(RULES[name](evaluator.legal, ratio).values()) for ratio in RATIOS))
    shares = [dict(zip(SIZES, np.array(widths) / list(SIZES.values()), strict=True)) for widths in family]
    met = [evaluator.cost(share).latency <= latency for share in shares]
    first = met.index(True)
    scored = [tuple(evaluation.widths.values()) for evaluation in scorer.course]
    assert scored == [*family[first:], *family[:first]]
    assert scorer.costed < len(family)


@pytest.mark.parametrize("name", RULES)
def test_a_single_evaluation_goes_to_the_widest_within_the_budget(name):
    _, scorer = run(name, 0.75, 1)
    assert scorer.course[0].key == run(name, 0.75)[1].course[0].key
    assert scorer.course[0].cost.latency <= 0.75


@pytest.mark.parametrize("name", RULES)
def test_the_rules_are_not_one_rule(name):
    evaluator, scorer = run(name, 0.75)
    flat = {tuple(evaluator.legal.all_nearest(ratio).values()) for ratio in RATIOS}
    assert len({tuple(evaluation.widths.values()) for evaluation in scorer.course} - flat) > 3


def test_a_family_beyond_the_budget_is_stood_for_by_the_anchor(messages):
    _, scorer = run("uniform_skip", 0.2)
    assert "no plan of uniform_skip meets the budget" in messages()
    assert scorer.means[0] == "anchor"
    assert scorer.course[0].widths == {"a": 8, "b": 16, "c": 24, "d": 8}


def test_plans_that_cannot_be_compiled_are_passed_over():
    widest = tuple(run("uniform_width", 0.75)[1].course[0].widths.values())
    evaluator = Uneven({widest})
    _, scorer = run("uniform_width", 0.75, 1, evaluator)
    assert tuple(scorer.course[0].widths.values()) != widest
    assert scorer.course[0].cost.latency <= 0.75
