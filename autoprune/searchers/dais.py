"""An indicator for every option, trained with the weights while it hardens to 0 or 1.

DAIS, differentiable annealing indicator search (Guan et al., 2020, arXiv 2011.02166). An indicator is the logistic of
alpha / T and weighs what its option has more than the one before: channels, or a branch. T is annealed from 1 to 1/50.
Weights learn on one part of the training images, alphas on another, with a lasso on the indicators and with +log E
where the expected cost E is above the budget, -log E where it is well below. E is what the surrogate predicts for the
expected widths, between options along the line from one to the next.

The paper has an indicator for each channel and a budget of FLOPs. Here those of one dimension are ordered as the
importance orders its channels: a gate is the least of the indicators up to its own, so that what stays is a plan of the
search space. Groups need no regulariser for the sake of symmetry: a residual sum is one group. And the term of log E is
always as steep as the loss, times `COST`: with a constant weight, what suits one network ruins another.

The search takes `STEPS` steps of the weights and as many of the alphas, each on 64 images. That is about what
fine-tuning for STEPS * 128 / n epochs takes on n images, and as much as STEPS / 5 evaluations at the default of ten
steps of tuning. It is not charged as evaluations; its seconds, which all comparisons show, are those of the first plan
it proposes. That is what the indicators have become, brought onto the budget by compiling. The other evaluations climb
from the best plan by small steps. The model keeps its weights to the last bit: those that learn are copies.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from autoprune.errors import CostError
from autoprune.planning import Candidate, SearchSpace
from autoprune.records import Budget
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal, Relaxation
from autoprune.searchers.memory import Memory
from autoprune.searchers.problem import Problem
from autoprune.searchers.searcher import Proposals, ask_tell

STEPS = 300
ANNEALED = 0.8  # Share of the steps after which T has fallen to the least; then indicators only settle.
COLD = 50  # 1 / T in the end.
FIRST = (1.0, 0.5)  # Alphas at first, from the least option of a dimension to all.
RATE, BETAS, EPSILON = 0.02, (0.9, 0.99), 1e-8  # Of Adam, for the alphas.
LASSO = 0.01  # Weight of the mean indicator, beside the loss of the task.
COST = 1.5  # How steep the term of log E is, as a multiple of the loss.
SLACK = 0.02  # How far below the budget E may be, as a share of it, before it is pushed up.

BATCH = 4  # Plans around the best at a time.
COMPILED = 64  # At most, before the surrogate predicts.


@ask_tell("dais", backend="tensorflow")
def dais(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Propose what annealed indicators have become, after the anchor, and then plans around the best."""
    space, memory, generator = problem.space, Memory(problem.space, evaluator), np.random.default_rng(seed)
    yield from memory.learn([Proposal(start, "anchor", project=False) for start in problem.starts])
    if memory.complete:
        return
    indicators = Indicators(space)
    anneal(indicators, evaluator.relax(seed), ExpectedCost(evaluator, generator))
    found = widest_within(evaluator, indicators.candidate)
    if found not in memory:
        yield from memory.learn([Proposal(found, "indicators", project=False)])
    while not memory.complete:
        batch: list[Candidate] = []
        for near in space.neighbours([memory.best], generator, BATCH):
            if len(memory) + len(batch) < space.count:
                batch.append(memory.walk(evaluator.projector.project(near), generator, batch))
        yield from memory.learn([Proposal(candidate, "neighbour", project=False) for candidate in batch])


class Indicators:
    """Indicators of a search space, one dimension behind the other; the least option of a dimension has none.

    Args:
        space: which options there are.

    Attributes:
        alphas: (indicators,) what is learnt.
        temperature: T.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._owners = np.repeat(np.arange(len(space)), space.full)
        self._starts = np.cumsum([0, *space.full[:-1]])
        self._steps = np.concatenate([np.diff(dimension.options) for dimension in space.dimensions])
        self.alphas = np.concatenate([np.linspace(*FIRST, count) for count in space.full])
        self.temperature = 1.0

    @property
    def values(self) -> np.ndarray:
        """(indicators,) from 0 to 1."""
        return np.asarray(expit(self.alphas / self.temperature))

    @property
    def gates(self) -> np.ndarray:
        """(indicators,) the least of the indicators of a dimension up to each."""
        return self.values[self._least()]

    @property
    def widths(self) -> np.ndarray:
        """(dimensions,) expected values of the dimensions."""
        least = [dimension.options[0] for dimension in self._space.dimensions]
        return least + np.bincount(self._owners, self.gates * self._steps, minlength=len(self._space))

    @property
    def candidate(self) -> Candidate:
        """What is left where every gate is rounded."""
        options = np.bincount(self._owners, self.gates > 0.5, minlength=len(self._space)).astype(int)
        return tuple(self._space.canonical(options).tolist())

    def by_gates(self, of_widths: np.ndarray) -> np.ndarray:
        """(indicators,) slopes by gates from (dimensions,) those by widths."""
        return np.asarray(of_widths[self._owners] * self._steps)

    def slope(self, of_gates: np.ndarray, of_widths: np.ndarray) -> np.ndarray:
        """(indicators,) the slope by alphas of what has these slopes by gates and by (dimensions,) widths."""
        values, whole = self.values, of_gates + self.by_gates(of_widths)
        of_values = np.bincount(self._least(), whole, minlength=len(values)) + LASSO / len(values)
        return np.asarray(of_values * values * (1 - values) / self.temperature)

    def _least(self) -> np.ndarray:
        """(indicators,) which indicator of its dimension up to each is the least."""
        places = np.arange(len(self.alphas))
        for start, count in zip(self._starts, self._space.full, strict=True):
            part = self.alphas[start : start + count]
            running = np.minimum.accumulate(part)
            places[start : start + count] = start + np.maximum.accumulate(
                np.where(part == running, np.arange(count), 0)
            )
        return places


class ExpectedCost:
    """What expected widths cost, as a multiple of the budget; without one, of what the start costs.

    Args:
        evaluator: has what predicts. Until that does, random plans are compiled; where nothing does, each dimension at
            its least, and costs are thought to add up.
        generator: draws them.
    """

    def __init__(self, evaluator: BudgetedEvaluator, generator: np.random.Generator) -> None:
        problem = evaluator.problem
        self._space, self._evaluator = problem.space, evaluator
        self._limits = problem.budget
        if not self._limits.limited:
            self._limits = Budget(evaluator.cost(problem.start).latency)
        surrogate = evaluator.surrogate
        for _ in range(COMPILED):
            if surrogate is None or surrogate.ready:
                break
            self._compile(self._space.random(generator, problem.anchor))
        self._surrogate = surrogate if surrogate is not None and surrogate.ready else None
        self._slopes = np.zeros(len(self._space))
        if self._surrogate is None:
            self._whole = 1 + self._limits.overrun(problem.dense.required_cost)
            for position in self._space.free:
                least = np.array(self._space.full)
                least[position] = 0
                ratio = self._compile(tuple(self._space.canonical(least).tolist()))
                dimension = self._space.dimensions[position]
                if ratio is not None:
                    self._slopes[position] = (self._whole - ratio) / (dimension.size - dimension.options[0])

    def __call__(self, widths: np.ndarray) -> tuple[float, np.ndarray]:
        """The multiple at (dimensions,) widths, and its slopes."""
        space = self._space
        if self._surrogate is None:
            return self._whole - float(self._slopes @ (space.sizes - widths)), self._slopes
        nearest = np.array([d.nearest(w / d.size) for d, w in zip(space.dimensions, widths, strict=True)], int)
        at = space.values(nearest)
        towards = np.where((widths >= at) & (nearest < space.full) | (nearest == 0), 1, -1)
        free = list(space.free)
        others = np.repeat(nearest[None], len(free), axis=0)
        others[np.arange(len(free)), free] += towards[free]
        predicted = self._surrogate.predict_all(space.values(np.vstack([nearest, others])))
        ratios = 1 + np.asarray(self._limits.excess(*predicted))
        slopes = np.zeros(len(space))
        slopes[free] = (ratios[1:] - ratios[0]) / (space.values(others)[np.arange(len(free)), free] - at[free])
        return float(ratios[0] + slopes @ (widths - at)), slopes

    def _compile(self, candidate: Candidate) -> float | None:
        try:
            return 1 + self._limits.overrun(self._evaluator.cost(candidate))
        except CostError:
            return None


def anneal(
    indicators: Indicators, relaxation: Relaxation, cost: Callable[[np.ndarray], tuple[float, np.ndarray]]
) -> None:
    """Train weights and indicators in turn, while T falls."""
    means, squares = np.zeros_like(indicators.alphas), np.zeros_like(indicators.alphas)
    for step in range(STEPS):
        indicators.temperature = 1 / (1 + (COLD - 1) * min(step / (ANNEALED * STEPS), 1))
        relaxation.train(indicators.gates)
        ratio, slopes = cost(indicators.widths)
        direction = 1 if ratio > 1 else -1 if ratio < 1 - SLACK else 0
        of_loss = relaxation.slope(indicators.gates)
        steepness = np.linalg.norm(of_loss) / max(float(np.linalg.norm(indicators.by_gates(slopes))), 1e-12)
        slope = indicators.slope(of_loss, direction * COST * steepness * slopes)
        means = BETAS[0] * means + (1 - BETAS[0]) * slope
        squares = BETAS[1] * squares + (1 - BETAS[1]) * slope**2
        size = RATE * np.sqrt(1 - BETAS[1] ** (step + 1)) / (1 - BETAS[0] ** (step + 1))
        indicators.alphas = indicators.alphas - size * means / (np.sqrt(squares) + EPSILON)


def widest_within(evaluator: BudgetedEvaluator, candidate: Candidate) -> Candidate:
    """The widest plan like a candidate that is within the budget, by compiling; itself where nothing is limited.

    Like it are those on the line from keeping everything, through it, to the least, as `BudgetProjector` has them.
    """
    space = evaluator.problem.space
    if not evaluator.problem.budget.limited:
        return candidate
    line = list(dict.fromkeys(map(tuple, space.canonical(space.shift(candidate, np.linspace(-1, 1, 65))).tolist())))
    over, within = -1, len(line) - 1
    while within - over > 1:
        middle = (over + within) // 2
        over, within = (over, middle) if evaluator.meets_budget(line[middle]) else (middle, within)
    return line[within]
