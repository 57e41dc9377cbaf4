"""A world whose best plan is known: no model, no compiler, the answer in milliseconds.

Four groups of 64 channels. The first channels of a group bring most of what it is worth, latency is linear; the best
plan within the budget removes from the groups that matter least for the time they save.
"""

from dataclasses import dataclass, field, replace

import gymnasium
import numpy as np

from autoprune.cost.layers import Axis, LayerDependence
from autoprune.envs import ENV_ID
from autoprune.envs.facts import GroupFacts, ModelFacts
from autoprune.envs.making import imagined_env, rolled_out
from autoprune.envs.observation import Situation, shares
from autoprune.envs.pruning_env import PruningTask
from autoprune.planning.widths import LegalWidths, legal_width
from autoprune.records import Budget, ChannelGroup, CostReport, Evaluation, Member, Memory, Target
from autoprune.searchers import Objective, Problem
from autoprune.settings import Constraints, RewardSettings

SIZE = 64
WORTH = (0.40, 0.10, 0.35, 0.05)  # accuracy that the group's channels are worth
TIME = (0.10, 0.40, 0.10, 0.40)  # share of the latency that they take
NAMES = ("a", "b", "c", "d")
CONSTRAINTS = Constraints(multiple_of=8, min_keep_ratio=0.125)
TARGET = Target("tpu_v5e", 8)
BUDGET = 0.5


def accuracy_of(ratios):
    """Accuracy of keep ratios along the last axis: 0.1 for nothing, 1.0 for everything, with falling returns."""
    return 0.1 + (-np.expm1(-4 * ratios) / -np.expm1(-4.0)) @ np.array(WORTH)


def cost_of(ratios):
    latency = sum(t * r for t, r in zip(TIME, ratios, strict=True))
    memory = Memory(1000, 1000, 1000, 3000)
    return CostReport(TARGET, "compiler estimate", latency, latency, None, memory, 1000, 1000)


def evaluation_of(keep_ratios):
    """Score keep ratios given by name, or one for all."""
    if not isinstance(keep_ratios, dict):
        keep_ratios = dict.fromkeys(NAMES, keep_ratios)
    widths = {name: legal_width(SIZE, keep_ratios.get(name, 1.0), CONSTRAINTS) for name in NAMES}
    ratios = [widths[name] / SIZE for name in NAMES]
    accuracy = float(accuracy_of(np.array(ratios)))
    key = "-".join(str(widths[name]) for name in NAMES)
    return Evaluation(key, dict(zip(NAMES, ratios, strict=True)), widths, accuracy, cost_of(ratios))


class ToyJournal:
    def add_request(self, searcher, number, key):
        pass


@dataclass
class ToyEvaluator:
    """Stands where an `Evaluator` stands."""

    calls: int = 0
    journal: ToyJournal = field(default_factory=ToyJournal)

    def evaluate(self, keep_ratios):
        self.calls += 1
        return evaluation_of(keep_ratios)

    def cost(self, keep_ratios):
        return evaluation_of(keep_ratios).cost


def problem(budget=BUDGET):
    """By default half the latency; uniform plans that keep half of everything meet it."""
    size = np.arange(SIZE)
    groups = tuple(ChannelGroup(n, SIZE, True, "", (Member(n, "kernel", 3, "produces", size),)) for n in NAMES)
    dense = evaluation_of(1.0)
    objective = Objective(Budget(budget), dense, RewardSettings())
    return Problem(groups, LegalWidths(groups, CONSTRAINTS), objective, np.floor(budget * 8) / 8)


def facts():
    groups = tuple(
        GroupFacts(name, SIZE, 1, 4**n, 9.0, 1, 1, TIME[n], WORTH[n], (0.5, 0.8, 1.0, 1.2, 1.5))
        for n, name in enumerate(NAMES)
    )
    return ModelFacts(groups, tuple(LayerDependence(f"g{n}", TIME[n], (Axis(1, ((n, 1.0),)),)) for n in range(4)))


class Environments:
    """Makes environments of the toy, around anything with an `evaluate`."""

    def __call__(self, problem, scorer):
        task = PruningTask(situation(problem), problem.legal, problem.objective, scorer.evaluate)
        return gymnasium.make(ENV_ID, task=task)

    def imagined(self, problem, scorer, imagination, count):
        return imagined_env(situation(problem), problem, scorer, imagination, count)

    def rolled_out(self, problem, scorer, policy):
        return lambda anchor: rolled_out(policy, replace(situation(problem), anchor=anchor), problem.legal)


def situation(problem):
    limits = shares(problem.budget, problem.dense)
    return Situation(facts(), *limits, problem.anchor, problem.legal.minimum, TARGET)


make_env = Environments()


def best_accuracy(budget=BUDGET):
    """The best plan within the budget, by trying all 4,096."""
    widths = np.arange(8, SIZE + 1, 8) / SIZE
    grid = np.stack(np.meshgrid(*[widths] * 4, indexing="ij"), -1).reshape(-1, 4)
    inside = grid @ np.array(TIME) <= budget + 1e-12
    return float(accuracy_of(grid[inside]).max())
