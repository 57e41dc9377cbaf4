"""From a budget to a problem: limits, anchors, and why there may be none."""

import functools
from dataclasses import dataclass, replace

import keras
import numpy as np
import pytest

from autoprune.errors import BudgetError, CostError, ModelError, SettingsError
from autoprune.planning import SearchSpace
from autoprune.records import Budget, ChannelGroup, Evaluation, Member
from autoprune.searchers import SEARCHERS, build_problem
from autoprune.searchers.infeasible import nothing_found
from autoprune.searchers.problem import absolute
from autoprune.settings import BudgetSettings, RewardSettings
from helpers import toy

NO_BUDGET = BudgetSettings(None, None)


def floor(share):
    return RewardSettings("latency_at_accuracy", accuracy_floor=share)


@dataclass
class ToyPlanner:
    groups: tuple
    parts: tuple
    all_groups: tuple
    scores: dict
    space: SearchSpace


OUTPUT = Member("", "kernel", 3, "produces", np.arange(10))


@functools.cache
def toy_network():
    """Convolutions named as the toy's groups."""
    image = keras.Input((2, 2, toy.SIZE))
    x = image
    for name in toy.NAMES:
        x = keras.layers.Conv2D(toy.SIZE, 1, name=name)(x)
    return keras.Model(image, keras.layers.Conv2D(10, 1, name="head")(x))


class Posed(toy.ToyEvaluator):
    """The toy with what a problem is made from; the memory falls with the width too."""

    def __init__(self, refused=()):
        super().__init__()
        channels = np.arange(toy.SIZE)
        groups = tuple(
            ChannelGroup(
                name=name,
                size=toy.SIZE,
                prunable=True,
                reason="",
                members=(Member(name, "kernel", 3, "produces", channels),),
            )
            for name in toy.NAMES
        )
        frozen = ChannelGroup(
            name="head",
            size=10,
            prunable=False,
            reason="is an output of the model ('head')",
            members=(replace(OUTPUT, layer="head"),),
        )
        scores = dict.fromkeys(toy.NAMES, np.ones(toy.SIZE))
        self.planner = ToyPlanner(groups, groups, (*groups, frozen), scores, toy.SPACE)
        self.refused = refused
        self.model = toy_network()
        self.costed = []

    def cost(self, candidate):
        self.costed.append(candidate)
        if candidate in self.refused:
            raise CostError("too strange")
        return self._with_memory(super().evaluate(candidate)).cost

    def evaluate(self, candidate):
        return self._with_memory(super().evaluate(candidate))

    def _with_memory(self, evaluation):
        total = 1000 + 50 * sum(evaluation.widths.values()) // 4
        return replace(evaluation, cost=replace(evaluation.cost, memory=replace(evaluation.cost.memory, total=total)))


def test_the_anchor_is_the_widest_uniform_plan_within_the_budget():
    assert Posed().evaluate(toy.SPACE.full).cost.latency == pytest.approx(1.0)
    for budget in (BudgetSettings(0.5), BudgetSettings("500ms"), BudgetSettings("0.5s")):
        problem = build_problem(Posed(), budget)
        assert problem.budget == Budget(pytest.approx(0.5))
        assert toy.evaluation_of(problem.anchor).widths == dict.fromkeys(toy.NAMES, 32)


def test_memory_is_limited_in_bytes():
    dense = Posed().evaluate(toy.SPACE.full).cost
    assert absolute(BudgetSettings(None, "2kB"), dense) == Budget(None, 2000)
    problem = build_problem(Posed(), BudgetSettings(None, "2kB"))
    assert Posed().evaluate(problem.start).cost.memory.total <= 2000


@pytest.mark.parametrize(
    ("budget", "messages"),
    [
        (BudgetSettings(0.05), ["latency 0.05 was asked for, 0.125 to 1 is possible", "shares of the dense model"]),
        (BudgetSettings("50ms"), ["latency 50ms was asked for, 125ms to 1000ms is possible"]),
        (BudgetSettings(None, "1kB"), ["memory 1kB was asked for, 1.4kB to 4.2kB is possible"]),
        (BudgetSettings(None, "0.5B"), ["memory 0.5B was asked for, 1400B to 4200B is possible"]),
        (BudgetSettings(None, 1e-4), ["memory 0.0001 was asked for, 0.334 to 1 is possible"]),
        (
            BudgetSettings("50ms", 0.1),
            [
                "latency 50ms was asked for, 125ms to 1000ms is possible; memory 0.1 was asked for, 0.334 to 1 is",
                "The nearest to both, keep ratio 0.1",
                "has latency 125ms and memory 0.334",
            ],
        ),
    ],
)
def test_impossible_budgets_are_answered_with_what_is_possible(budget, messages):
    """In the units that were asked in, and down to the narrowest plan that the constraints allow."""
    with pytest.raises(BudgetError) as refused:
        build_problem(Posed(), budget)
    for message in (*messages, "constraints.min_keep_ratio"):
        assert message in str(refused.value)


def test_an_impossible_budget_is_known_after_two_compilations():
    """The dense model's and that of the narrowest plan, however many are between."""
    evaluator = Posed()
    with pytest.raises(BudgetError):
        build_problem(evaluator, BudgetSettings(0.05))
    assert len(evaluator.costed) == 1  # Beside the dense model, which is evaluated.
    assert toy.evaluate(evaluator.costed[0]).widths == dict.fromkeys(toy.NAMES, 8)


def test_what_holds_the_latency_and_the_memory_is_named():
    """Layers with what is left of their groups, or why nothing of them can go."""

    class Slow(Posed):
        def _with_memory(self, evaluation):
            evaluation = super()._with_memory(evaluation)
            cost, left = evaluation.cost, evaluation.widths["a"] / toy.SIZE
            layers = {name: 0.01 * left for name in toy.NAMES} | {"a": 0.5 * left, "d": 0.25 * left, "head": 0.4 * left}
            return replace(evaluation, cost=replace(cost, latency=2 * left, layers=layers))

    with pytest.raises(BudgetError) as refused:
        build_problem(Slow(), BudgetSettings("50ms", "1kB"))
    assert (
        "At keep ratio 0.125 the latency is held by a 25% (8 of 64 channels of a), head 20% (is an output of the model "
        "('head')), d 12% (8 of 64 channels of d); 42% belongs to no layer with operations, such as copies."
    ) in str(refused.value)
    assert "the memory is held by weights 71%, activations 71%, code 71%." in str(refused.value)


def test_each_compilation_is_told_with_how_many_may_follow():
    seen = []
    evaluator = Posed()
    problem = build_problem(evaluator, BudgetSettings(0.5), observe=lambda *told: seen.append(told))
    assert [toy.SPACE.nearest(ratio) for ratio, _, _ in seen] == evaluator.costed
    assert all(cost == evaluator.cost(toy.SPACE.nearest(ratio)) for ratio, cost, _ in seen)
    assert problem.anchor in [ratio for ratio, _, _ in seen]
    left = [more for _, _, more in seen]
    assert left[0] == 6
    assert left[-1] == 0


def test_what_is_named_as_possible_is():
    for budget in (BudgetSettings(0.125), BudgetSettings("125ms")):
        assert toy.evaluation_of(build_problem(Posed(), budget).anchor).widths == dict.fromkeys(toy.NAMES, 8)


def test_amounts_that_the_dense_model_meets_leave_nothing_to_do(messages):
    with pytest.raises(BudgetError, match=r"dense model already meets the budget on tpu_v5e .*takes 1s\)"):
        build_problem(Posed(), BudgetSettings("2s"))
    assert build_problem(Posed(), BudgetSettings("2s", 0.5)).budget == Budget(2.0, 2100)
    assert "already meets this limit: budget.latency=2s" in messages()


def test_plans_that_cannot_be_costed_are_left_out():
    with pytest.raises(BudgetError, match="latency 0.05 was asked for, 1 to 1 is possible"):
        build_problem(Posed(refused=Everything()), BudgetSettings(0.05))


class Everything:
    def __contains__(self, ratio):
        return True


@pytest.mark.parametrize("cost", [None, toy.evaluation_of(1.0).cost])
def test_a_dense_model_without_cost_or_score_is_refused(cost):
    class Broken(Posed):
        def evaluate(self, candidate):
            return replace(super().evaluate(candidate), score=float("nan"), cost=cost, error="It broke.")

    error, what = (CostError, "costed") if cost is None else (ModelError, "scored")
    with pytest.raises(error, match=f"dense model cannot be {what}, so there is nothing to compare with. It broke."):
        build_problem(Broken(), BudgetSettings(0.5))


def test_memory_must_be_told():
    cost = toy.evaluation_of(1.0).cost
    cost = replace(cost, memory=replace(cost.memory, total=None))
    with pytest.raises(BudgetError, match="budget.memory cannot be checked"):
        absolute(BudgetSettings(None, "1kB"), cost)


# ------------------------------------------------------------------ an accuracy floor


def test_no_limit_needs_a_reward_with_a_floor():
    with pytest.raises(SettingsError, match="budget must be a latency or memory limit"):
        build_problem(Posed(), NO_BUDGET)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 0.99])
def test_without_a_budget_the_anchor_is_the_narrowest_uniform_plan_above_the_floor(share):
    evaluator = Posed()
    problem = build_problem(evaluator, NO_BUDGET, floor(share))
    widths = [width for width in range(8, 65, 8) if toy.evaluation_of(width / 64).score >= share * problem.dense.score]
    assert toy.evaluation_of(problem.anchor).widths == dict.fromkeys(toy.NAMES, min(widths))
    assert not problem.budget.limited
    assert evaluator.calls < 10


def test_a_floor_of_everything_is_met_by_the_dense_model():
    assert build_problem(Posed(), NO_BUDGET, floor(1.0)).anchor == 1.0


def test_a_budget_holds_beside_the_floor(messages):
    problem = build_problem(Posed(), BudgetSettings(0.5), floor(0.5))
    assert problem.objective.met_by(Posed().evaluate(problem.start))
    problem = build_problem(Posed(), BudgetSettings(0.25), floor(0.99))
    assert toy.evaluation_of(problem.anchor).widths == dict.fromkeys(toy.NAMES, 16)
    assert "no uniform plan within the budget is known to reach the score" in messages()


def test_a_floor_that_nothing_meets_is_answered_with_the_best_that_was_reached():
    problem = build_problem(Posed(), BudgetSettings(0.25), floor(0.99))
    course = [Posed().evaluate(toy.SPACE.nearest(ratio)) for ratio in (1.0, 0.25, 0.125)]
    assert problem.objective.best(course) is None
    said = nothing_found(problem.objective, [course, course[:1]])
    best = toy.evaluation_of(0.25).score
    assert "No plan reached the accuracy floor: reward.accuracy_floor=0.99" in said
    assert f"the best of 2 evaluations within the budget has {best:.4f} ({int(1000 * best) / 1000:.3f} of" in said


def test_evaluations_that_failed_are_another_matter():
    failed = Evaluation(key="f", keep_ratios={}, widths={}, accuracy=float("nan"), cost=None, error="died")
    assert "their evaluations failed" in nothing_found(toy.problem().objective, [[failed]])
    assert "their evaluations failed" in nothing_found(
        build_problem(Posed(), NO_BUDGET, floor(0.5)).objective, [[failed]]
    )


@pytest.mark.parametrize("name", list(SEARCHERS))
def test_every_searcher_finds_something_above_the_floor(name):
    problem = build_problem(Posed(), NO_BUDGET, floor(0.8))
    for evaluations in (1, 20):
        best = toy.search(name, evaluations, to_search=problem, evaluator=Posed()).history.best
        assert best is not None
        assert best.evaluation.score >= 0.8 * problem.dense.score
