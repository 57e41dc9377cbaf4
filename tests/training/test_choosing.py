"""Which finished model is the result: within the budget as it was compiled in the end, and the best of these."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import keras
import pytest

from autoprune.errors import BudgetError, PlanError
from autoprune.planning import Planner
from autoprune.records import Budget, Evaluation
from autoprune.searchers import Objective
from autoprune.settings import Constraints, RewardSettings
from autoprune.training.choosing import finish_all
from helpers import toy


@dataclass
class Done:
    name: str
    reward_accuracy: float
    cost: object
    evaluation: object = None
    finalists: tuple = ()


class Finisher:
    """Finishes the toy's plans; by name: accuracy after fine-tuning, and latency of the finished model."""

    def __init__(self, **ends):
        self.ends = {"dense": (1.0, 1.0), **ends}
        self.model = None

    def finish(self, name, evaluation, show=None):
        accuracy, latency = self.ends[name]
        self.model = name
        return Done(name, accuracy, replace(evaluation.cost, latency=latency), evaluation)

    def bring_back(self, done):
        self.model = done.name

    def undo(self):
        self.model = "dense"


@contextmanager
def quiet(name):
    yield None


def finish(finisher, reward=None, budget=None):
    objective = Objective(budget or Budget(0.5), toy.evaluation_of(1.0), reward or RewardSettings())
    ratios = {"uniform": 0.5, "rl": 0.25}
    best = {name: [toy.evaluation_of(ratios[name])] for name in finisher.ends if name != "dense"}
    finished, kept = finish_all(finisher, objective, best, quiet)
    assert finisher.model == kept.name
    return [done.name for done in finished], kept.name


def test_the_most_accurate_is_kept():
    assert finish(Finisher(uniform=(0.9, 0.5), rl=(0.8, 0.4))) == (["dense", "uniform", "rl"], "uniform")
    assert finish(Finisher(uniform=(0.9, 0.5), rl=(0.9, 0.4)))[1] == "rl"


def test_what_is_over_the_budget_when_it_is_finished_is_no_result(messages):
    assert finish(Finisher(uniform=(0.8, 0.5), rl=(0.9, 0.51))) == (["dense", "uniform"], "uniform")
    assert "rl is no result: its finished model is 2.00 % over the budget" in messages()


def test_when_all_are_over_the_budget_there_is_no_result():
    finisher = Finisher(uniform=(0.8, 0.55), rl=(0.9, 0.51))
    with pytest.raises(BudgetError, match=r"uniform is 10.00% over, rl is 2.00% over"):
        finish(finisher)
    assert finisher.model == "dense"


class InOrder(Finisher):
    """Finishes a searcher's plans one after the other; by name: a list of such pairs."""

    def finish(self, name, evaluation, show=None):
        if name == "dense":
            return super().finish(name, evaluation, show)
        accuracy, latency = self.ends[name].pop(0)
        self.model = name
        return Done(name, accuracy, replace(evaluation.cost, latency=latency), evaluation)


def test_of_finalists_the_most_accurate_after_fine_tuning_is_the_searchers():
    wide, narrow, *others = (toy.evaluation_of(ratio) for ratio in (0.5, 0.25, 0.375, 0.75, 0.125))
    finisher = InOrder(uniform=[(0.7, 0.5), (0.6, 0.4)], rl=[(0.8, 0.5), (0.9, 0.4), (0.95, 0.6)])
    labels = []

    @contextmanager
    def labelled(name):
        labels.append(name)
        yield None

    objective = Objective(Budget(0.5), toy.evaluation_of(1.0), RewardSettings())
    finalists = {"uniform": [wide, narrow], "rl": others}
    finished, kept = finish_all(finisher, objective, finalists, labelled)
    assert labels == ["uniform 1/2", "uniform 2/2", "rl 1/3", "rl 2/3", "rl 3/3"]
    assert [(done.name, done.reward_accuracy) for done in finished] == [("dense", 1.0), ("uniform", 0.7), ("rl", 0.9)]
    assert kept is finished[-1]
    assert finisher.model == "rl"
    # The third is over the budget as it was compiled in the end.
    assert [(one.key, one.reward_accuracy) for one in kept.finalists] == [(others[0].key, 0.8), (others[1].key, 0.9)]


def test_a_plan_of_several_searchers_is_fine_tuned_once(messages):
    """And the model is the last one that was finished, without being brought back."""
    same = toy.evaluation_of(0.5)
    finisher = InOrder(uniform=[(0.8, 0.5)], rl=[], greedy=[(0.7, 0.4)])
    finisher.bring_back = None
    objective = Objective(Budget(0.5), toy.evaluation_of(1.0), RewardSettings())
    finished, kept = finish_all(finisher, objective, {"uniform": [same], "rl": [same]}, quiet)
    assert [(done.name, done.reward_accuracy) for done in finished[1:]] == [("uniform", 0.8), ("rl", 0.8)]
    assert (kept.name, finisher.model) == ("rl", "uniform")
    assert "rl has the same plan as uniform: it is fine-tuned once" in messages()
    finisher = InOrder(uniform=[(0.8, 0.5)], rl=[(0.7, 0.4)])
    finisher.bring_back = lambda done: setattr(finisher, "model", done.name)
    finish_all(finisher, objective, {"uniform": [same], "rl": [toy.evaluation_of(0.25), same]}, quiet)
    assert finisher.model == "rl"


def test_above_an_accuracy_floor_the_fastest_is_kept(messages):
    floor = RewardSettings("latency_at_accuracy", accuracy_floor=0.8)
    assert finish(Finisher(uniform=(0.9, 0.5), rl=(0.81, 0.4)), floor, Budget())[1] == "rl"
    assert finish(Finisher(uniform=(0.9, 0.5), rl=(0.79, 0.4)), floor, Budget())[1] == "uniform"
    assert "accuracy floor" not in messages()
    assert finish(Finisher(uniform=(0.7, 0.5), rl=(0.6, 0.4)), floor, Budget())[1] == "uniform"
    assert "no plan is above the accuracy floor" in messages()


def test_a_plan_of_other_legal_widths_is_refused():
    """Its keep ratios would give another network under its name."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(32, 3, name="wide"), layers.Flatten()])
    model.add(layers.Dense(10))
    planner = Planner(model, constraints=Constraints(multiple_of=8))
    plan = planner.plan(0.25)
    evaluation = Evaluation(
        key="0123456789abcdef", keep_ratios=plan.keep_ratios, widths=plan.widths, accuracy=0.9, cost=None
    )
    assert planner.space.plan(planner.space.find(evaluation.widths)).widths == plan.widths == {"wide": 8}
    planner.restrict({"wide": (16, 32)})
    with pytest.raises(PlanError, match=r"Expected one of \[16, 32\] channels in 'wide'. Received: 8"):
        planner.space.find(evaluation.widths)
