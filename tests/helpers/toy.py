"""A world whose best plan is known: no model, no compiler, the answer in milliseconds.

Four groups of 64 channels. The first channels of a group bring most of what it is worth, latency is linear; the best
plan within the budget removes from the groups that matter least for the time they save.
"""

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from autoprune.cost.layers import Axis, LayerDependence
from autoprune.planning import Dimension, SearchSpace
from autoprune.planning.space import legal_widths
from autoprune.records import Budget, CostReport, Evaluation, Memory, Target
from autoprune.searchers import SEARCHERS, BudgetedEvaluator, Objective, Problem
from autoprune.searchers.features import DimensionFeatures, ModelFeatures
from autoprune.settings import AgentSettings, Constraints, LimitsSettings, RewardSettings

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


def cost_report(latency, memory, target=TARGET, layers=None):
    """A compiler's estimate, of 1,000 operations and parameters."""
    return CostReport(
        target=target,
        kind="compiler estimate",
        latency=latency,
        latency_sum=latency,
        latency_iqr=None,
        memory=memory,
        flops=1000,
        parameters=1000,
        layers=layers or {},
    )


def cost_of(ratios):
    return cost_report(sum(t * r for t, r in zip(TIME, ratios, strict=True)), Memory(1000, 1000, 1000, 3000))


class KnownCost:
    """A cost model that knows one cost."""

    target = TARGET

    def submit(self, model):
        answer = Future()
        answer.set_result(cost_of([1.0] * 4))
        return answer


SPACE = SearchSpace(
    [Dimension(name, tuple(legal_widths(SIZE, CONSTRAINTS)), np.arange(SIZE)) for name in NAMES],
    CONSTRAINTS.min_keep_ratio,
)


def evaluation_of(keep_ratios, space=SPACE):
    """Evaluate keep ratios given by name, or one for all."""
    return evaluate(space.nearest(keep_ratios), space)


def evaluate(candidate, space=SPACE):
    """Evaluate a candidate."""
    widths = space.by_name(candidate)
    ratios = space.keep_ratios(candidate)
    return Evaluation(
        key="-".join(map(str, widths.values())),
        keep_ratios=dict(zip(NAMES, ratios.tolist(), strict=True)),
        widths=widths,
        accuracy=float(accuracy_of(ratios)),
        cost=cost_of(ratios.tolist()),
    )


@dataclass
class ToyEvaluator:
    """Stands where an `Evaluator` stands."""

    space: SearchSpace = SPACE
    calls: int = 0

    def evaluate(self, candidate, draw=0):
        self.calls += 1
        return evaluate(candidate, self.space)

    def evaluate_many(self, candidates):
        return map(self.evaluate, candidates)

    def cost(self, candidate):
        return evaluate(candidate, self.space).cost

    def relax(self, seed):
        return ToyRelaxation(self.space)

    def note(self, searcher, number, evaluation):
        pass


@dataclass
class ToyRelaxation:
    """Its loss is what is missing of the accuracy, at the expected keep ratios."""

    space: SearchSpace

    def train(self, gates):
        pass

    def slope(self, gates):
        parts = np.split(gates, np.cumsum(self.space.full)[:-1])
        steps = [np.diff(dimension.options) / dimension.size for dimension in self.space.dimensions]
        each = zip(self.space.dimensions, parts, steps, strict=True)
        kept = np.array([dimension.keep_ratios[0] + step @ part for dimension, part, step in each])
        of_ratios = -4 * np.exp(-4 * kept) / -np.expm1(-4.0) * np.array(WORTH)
        return np.concatenate([slope * step for slope, step in zip(of_ratios, steps, strict=True)])


def problem(budget=BUDGET, *, space=SPACE, anchor=None, reward=None, limits=None):
    """By default half the latency; uniform plans that keep half of everything meet it.

    Args:
        budget: share of the latency.
        space: of the plans.
        anchor: None is where uniform plans meet the budget.
        reward: settings.
        limits: a `Budget` in the place of the share.
    """
    objective = Objective(limits or Budget(budget), evaluation_of(1.0), reward or RewardSettings())
    return Problem(
        space=space,
        features=features(),
        objective=objective,
        anchor=np.floor(budget * 8) / 8 if anchor is None else anchor,
    )


def budgeted(evaluations, *, name="toy", to_search=None, evaluator=None, surrogate=None, observe=None, **limits):
    """A `BudgetedEvaluator` of the toy; `limits` are those of `LimitsSettings`."""
    to_search = to_search or problem()
    evaluator = evaluator or ToyEvaluator(to_search.space)
    limits = LimitsSettings(evaluations, **limits)
    return BudgetedEvaluator(evaluator, to_search, name=name, limits=limits, surrogate=surrogate, observe=observe)


def search(name, evaluations, *, seed=0, agent=None, **options):
    """Let a searcher, or an agent by its name, search the toy; its `BudgetedEvaluator`."""
    evaluator = budgeted(evaluations, name=name, **options)
    agent = agent or AgentSettings(name if name not in SEARCHERS else "sac")
    kind = SEARCHERS.get(name if name in SEARCHERS else "rl")
    kind.build(evaluator.problem, evaluator, seed=seed, agent=agent).run()
    return evaluator


def features():
    groups = tuple(
        DimensionFeatures(
            name=name,
            is_branch=False,
            size=SIZE,
            unit=1,
            pixels=4**n,
            window=9.0,
            producers=1,
            consumers=1,
            flops_share=TIME[n],
            parameter_share=WORTH[n],
            importance=(0.5, 0.8, 1.0, 1.2, 1.5),
        )
        for n, name in enumerate(NAMES)
    )
    return ModelFeatures(groups, tuple(LayerDependence(f"g{n}", TIME[n], (Axis(1, ((n, 1.0),)),)) for n in range(4)))


def best_accuracy(budget=BUDGET):
    """The best plan within the budget, by trying all 4,096."""
    widths = np.arange(8, SIZE + 1, 8) / SIZE
    grid = np.stack(np.meshgrid(*[widths] * 4, indexing="ij"), -1).reshape(-1, 4)
    inside = grid @ np.array(TIME) <= budget + 1e-12
    return float(accuracy_of(grid[inside]).max())
