"""Plans brought onto the budget, or turned away, by guesses of their cost."""

import numpy as np
import pytest
import toy

from autoprune.cost.surrogate import Surrogate
from autoprune.searchers import SEARCHERS, Scorer, Steering


def taught(count=80):
    problem = toy.problem()
    surrogate = Surrogate(problem.groups, toy.facts().layers)
    generator = np.random.default_rng(5)
    for _ in range(count):
        evaluation = toy.evaluation_of(dict(zip(toy.NAMES, generator.uniform(0.125, 1, 4), strict=True)))
        surrogate.observe(evaluation.widths, evaluation.cost)
    return surrogate


def plans(count):
    generator = np.random.default_rng(1)
    return [dict(zip(toy.NAMES, draw, strict=True)) for draw in generator.uniform(0.125, 1, (count, 4))]


def latency(plan):
    return toy.evaluation_of(dict(plan)).cost.latency


def test_every_plan_is_brought_onto_the_budget():
    steering = Steering(taught(), toy.problem(), project=True)
    used = np.array([latency(steering.plan(plan)) / toy.BUDGET for plan in plans(40)])
    assert used.max() <= 1.03
    # Four groups may snap to the next legal width at once, an eighth of the latency.
    assert used.min() >= 0.7
    assert used.mean() >= 0.88, "the budget is there to be used"


def test_the_order_of_groups_is_kept():
    steering = Steering(taught(), toy.problem(), project=True)
    for plan in plans(20):
        brought = steering.plan(plan)
        wanted = [name for name, _ in sorted(plan.items(), key=lambda item: item[1])]
        got = sorted(brought.values())
        assert [brought[name] for name in wanted] == pytest.approx(got)


def test_plans_are_left_alone_until_something_is_known():
    steering = Steering(taught(5), toy.problem(), project=True, screen=True)
    for plan in plans(5):
        assert steering.plan(plan) is plan
        assert steering.promising(plan)


def test_only_plans_over_the_budget_are_turned_away():
    steering = Steering(taught(200), toy.problem(), screen=True)
    for plan in plans(100):
        over = latency(plan) / toy.BUDGET - 1
        if abs(over) > 0.1:
            assert steering.promising(plan) == (over < 0)


def test_neither_happens_unasked():
    steering = Steering(taught(), toy.problem())
    for plan in plans(10):
        assert steering.plan(plan) is plan
        assert steering.promising(plan)


class Knowing(toy.ToyEvaluator):
    """A toy evaluator whose surrogate has learnt already."""

    def __init__(self):
        super().__init__()
        self.surrogate = taught(200)


@pytest.mark.parametrize("how", ["project", "screen"])
def test_random_search_meets_the_budget_more_often(how):
    def share_met(**options):
        scorer = Scorer(Knowing(), "random", 60, steering=Steering(taught(200), toy.problem(), **options))
        SEARCHERS.get("random")(toy.problem(), scorer, 0)
        return np.mean([e.cost.latency <= toy.BUDGET * 1.02 for e in scorer.course])

    assert share_met(**{how: True}) > 0.9 > 0.75 > share_met()


def test_one_ratio_for_all_is_scored_as_it_is():
    scorer = Scorer(Knowing(), "uniform", 3, steering=Steering(taught(), toy.problem(), project=True))
    assert set(scorer.evaluate(1.0).widths.values()) == {64}


def test_agents_see_guesses_once_there_are_some():
    from envs.making import latency_guess

    problem = toy.problem()
    blind = latency_guess(problem, Scorer(toy.ToyEvaluator(), "x", 1))
    seeing = latency_guess(problem, Scorer(Knowing(), "x", 1))
    ratios = [0.5, 0.25, 1.0, 0.75]
    assert blind(ratios) is None
    true = latency(dict(zip(toy.NAMES, ratios, strict=True))) / latency(dict.fromkeys(toy.NAMES, 1.0))
    assert seeing(ratios) == pytest.approx(true, rel=0.05)
