"""Which finished model is the result: within the budget as it was compiled in the end, and the best of these."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import toy

from autoprune.errors import BudgetError
from autoprune.records import Budget
from autoprune.searchers import Objective
from autoprune.settings import RewardSettings
from autoprune.training.finishing import finish_all


@dataclass
class Done:
    name: str
    reward_accuracy: float
    cost: object


class Finisher:
    """Finishes the toy's plans; by name: accuracy after fine-tuning, and latency of the finished model."""

    def __init__(self, **ends):
        self.ends = {"dense": (1.0, 1.0), **ends}
        self.model = None

    def finish(self, name, evaluation, show=None):
        accuracy, latency = self.ends[name]
        self.model = name
        return Done(name, accuracy, replace(evaluation.cost, latency=latency))

    def bring_back(self, done):
        self.model = done.name

    def undo(self):
        self.model = "dense"


@contextmanager
def quiet(name):
    yield None


def finish(finisher, reward=None, budget=None):
    objective = Objective(budget or Budget(0.5), toy.evaluation_of(1.0), reward or RewardSettings())
    best = {name: toy.evaluation_of(0.5) for name in finisher.ends if name != "dense"}
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


def test_above_an_accuracy_floor_the_fastest_is_kept(messages):
    floor = RewardSettings("latency_at_accuracy", accuracy_floor=0.8)
    assert finish(Finisher(uniform=(0.9, 0.5), rl=(0.81, 0.4)), floor, Budget())[1] == "rl"
    assert finish(Finisher(uniform=(0.9, 0.5), rl=(0.79, 0.4)), floor, Budget())[1] == "uniform"
    assert "accuracy floor" not in messages()
    assert finish(Finisher(uniform=(0.7, 0.5), rl=(0.6, 0.4)), floor, Budget())[1] == "uniform"
    assert "no plan is above the accuracy floor" in messages()
