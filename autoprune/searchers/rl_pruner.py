"""A distribution over the dimensions that says where a removal comes from, shifted towards the best removal so far.

RL-Pruner (Wang & Kindratenko, 2024, arXiv 2411.06463). Its policy is one prune distribution, the share of a removal
that each layer bears. It removes in stages. In each, samples are the distribution with noise, the best of them draws
the distribution a step towards it, and the next stage starts from one of the best. Noise, step, bound of the step,
buffer, and how often another than the best is chosen are the paper's. The rest is not:

- A stage of the paper removes 1 % of all filters, by 100 samples, and is followed by 20 epochs of fine-tuning; there
  are up to 80. Here 10 to 300 evaluations are all there is and nothing is fine-tuned in between. So there is a stage
  for every 100 evaluations, one for fewer, five for more than 500; each ends where the latency, or memory, is as far
  on the way to the budget. (On the toy of `tests/helpers/toy.py`, with half that noise, 60 evaluations in four stages
  had a mean regret of 0.017, in one 0.006: a step of a few channels says too little of a layer.)
- The distribution moves after each round of four samples; the paper's after ten, if one of them is a new best.
- The noise is at least twice the mean mass: 0.04 is that with 50 layers; with six, so few rounds would not get away
  from where they began.
- Rewards come from the reward split. The paper's repository takes them from test images.
- The fractions of channels that rounding leaves are kept for the next stage; otherwise thin layers would never be cut.
- After a fall in quality the paper begins again with the uniform distribution. Without fine-tuning scores fall in any
  case: what was learnt comes back unless a round of uniform samples is better.
- Branches take part, see `PruneDistribution`.

Whatever compiles or predicts, every sample is charged as one evaluation, and so are the hand-set plans before them.
"""

import itertools
import math
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.errors import CostError
from autoprune.planning import Candidate, SearchSpace
from autoprune.records import Budget
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal, Trial
from autoprune.searchers.memory import Memory
from autoprune.searchers.objective import Objective
from autoprune.searchers.problem import Problem
from autoprune.searchers.projection import BudgetProjector
from autoprune.searchers.searcher import Proposals, ask_tell

NOISE, LEAST = 0.04, 1e-5  # Of a sample's masses.
STEP, RATIOS = 0.1, (0.75, 1.25)  # Of the way to the best sample; how far that may change a mass.
BUFFER = 10  # Best samples of a stage.
EPSILON = 0.4  # Chance that the next stage starts from any of these, at first; it falls to 0 as a cosine does.
FALL = 0.1  # Relative loss of score in a stage after which the distribution is doubted.

SAMPLES = 4  # Of a round.
STAGES, EACH = 5, 100  # At most, and the evaluations that each of several takes at least.
SPAN = (0.5, 2.0)  # Powers of the share that is kept where nothing is limited.
DRAWS = 20  # At most from one plan, for a sample that was not evaluated before.


class PruneDistribution:
    """Which share of a removal each dimension bears.

    A branch counts as many channels as leave with it, and is there or is not: a sample drops it with the chance by
    which it loses its share on average, and it is what a sample really did with its branches that is learnt from.

    Args:
        space: at first each dimension bears its share of all channels, which is uniform pruning.

    Attributes:
        channels: (dimensions,) that each can lose.
        start: (dimensions,) masses at first, 0 where there is no choice; they add up to 1.
        masses: (dimensions,) present ones.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.channels = space.sizes.astype(float)
        is_group = np.array([not dimension.is_branch for dimension in space.dimensions], bool)
        for position in () if space.depth is None else space.depth.positions:
            without = np.array(space.full)
            without[position] = 0
            leaving = space.sizes[space.is_gone(without[None])[0] & is_group]
            self.channels[position] = leaving.sum() or min(space.sizes[is_group], default=1)
        free = np.isin(np.arange(len(space)), space.free)
        self.start = np.where(free, self.channels, 0.0) / max(self.channels[free].sum(), 1.0)
        self.masses = self.start
        self._noise = max(NOISE, 2 / max(free.sum(), 1))

    def sample(self, generator: np.random.Generator, movable: np.ndarray, spread: float = 1.0) -> np.ndarray:
        """(dimensions,) The masses with noise; 0 for what cannot lose anything.

        Args:
            generator: draws.
            movable: (dimensions,) whether something can be removed; of one dimension at least.
            spread: multiple of the noise.
        """
        noise = generator.normal(size=len(movable)) * generator.uniform(size=len(movable))
        sampled = np.where(movable, np.maximum(self.masses + spread * self._noise * noise, LEAST), 0.0)
        return sampled / sampled.sum()

    def learn(self, best: np.ndarray) -> None:
        """Move a step towards the (dimensions,) masses of the best sample."""
        moved = self.masses + STEP * (best - self.masses)
        bounded = np.clip(moved, RATIOS[0] * self.masses, RATIOS[1] * self.masses)
        self.masses = bounded / bounded.sum()


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """A plan that came of a removal.

    Attributes:
        candidate: the plan.
        kept: (dimensions,) shares that are kept, before they are rounded to options; of branches 0 or 1.
        masses: (dimensions,) of the removal.
        reward: by the limits of the stage.
        score: score of its evaluation.
    """

    candidate: Candidate
    kept: np.ndarray
    masses: np.ndarray
    reward: float = -math.inf
    score: float = 0.0


class RLPruner:
    """One search: `propose` is its course.

    Args:
        problem: what is searched for.
        evaluator: evaluates its proposals, and says what candidates cost.
        seed: seed of all draws.

    Attributes:
        distribution: what has been learnt.
    """

    def __init__(self, problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> None:
        self.distribution = PruneDistribution(problem.space)
        self._problem, self._space, self._evaluator = problem, problem.space, evaluator
        self._is_branch = np.array([dimension.is_branch for dimension in self._space.dimensions], bool)
        self._generator = np.random.default_rng(seed)
        self._memory = Memory(problem.space, evaluator)
        self._dense = Sample(
            candidate=problem.space.full,
            kept=np.ones(len(problem.space)),
            masses=self.distribution.start,
            score=problem.dense.score,
        )

    def propose(self) -> Proposals:
        """Evaluate the starts, then remove in stages until the budget is met; the last stage has what is left."""
        yield from self._memory.learn([Proposal(start, "anchor", project=False) for start in self._problem.starts])
        stages = min(max(self._evaluator.left // EACH, 1), STAGES)
        base, each = self._dense, self._evaluator.left // stages
        for stage in range(1, stages + 1):
            limits = _Limits(self._problem, self._evaluator, stage / stages)
            best = yield from self._search(base, limits, each if stage < stages else self._evaluator.left)
            if self._memory.complete:
                return
            epsilon = EPSILON * (1 + math.cos(math.pi * stage / stages)) / 2
            another = self._generator.uniform() < epsilon
            base = best[int(self._generator.integers(len(best))) if another else 0]

    def _search(
        self, base: Sample, limits: "_Limits", evaluations: int
    ) -> Generator[Sequence[Proposal], Sequence[Trial], list[Sample]]:
        """Remove from one plan, in rounds; the best samples of the stage, the best first."""
        best: list[Sample] = []
        doubted: np.ndarray | None = None  # Masses that led to a fall, while others are tried.
        distribution = self.distribution
        while evaluations > 0 and not self._memory.complete:
            drawn: list[Sample] = []
            while len(drawn) < min(SAMPLES, evaluations) and len(self._memory) + len(drawn) < self._space.count:
                drawn.append(self._draw(base, limits, {sample.candidate for sample in drawn}))
            trials = yield [Proposal(sample.candidate, "sample", project=False) for sample in drawn]
            evaluations -= len(drawn)
            for number, (sample, trial) in enumerate(zip(drawn, trials, strict=True)):
                self._memory[sample.candidate] = trial.reward
                reward, score = limits.objective.reward(trial.evaluation), trial.evaluation.score
                drawn[number] = replace(sample, reward=reward, score=score)
            before, best = best, sorted([*best, *drawn], key=lambda sample: -sample.reward)[:BUFFER]
            if doubted is not None and best[0] is before[0]:
                distribution.masses = doubted
            if not before and not best[0].score >= (1 - FALL) * base.score:  # A score that is no number has fallen.
                doubted, distribution.masses = distribution.masses, distribution.start
            else:
                doubted = None
                distribution.learn(best[0].masses)
        return best

    def _draw(self, base: Sample, limits: "_Limits", underway: Collection[Candidate]) -> Sample:
        """A removal whose plan is neither known nor under way; at least one such plan must be left."""
        sample = base
        # Where nothing new is left of what this one leads to, what earlier stages removed may come back.
        for origin, draw in itertools.product((base, self._dense), range(DRAWS)):
            options = np.array(origin.candidate)
            movable = (options > 0) & ~self._space.is_gone(options[None])[0]
            if not movable.any():
                continue
            # What has been drawn before is mostly drawn again: it is looked for further and further away.
            masses = self.distribution.sample(self._generator, movable, spread=1 + draw / 4)
            sample = self._remove(origin, masses, limits)
            if sample.candidate not in self._memory and sample.candidate not in underway:
                return sample
        walked = self._memory.walk(sample.candidate, self._generator, underway)
        return replace(sample, candidate=walked, kept=self._space.keep_ratios(walked))

    def _remove(self, base: Sample, masses: np.ndarray, limits: "_Limits") -> Sample:
        """Remove in proportion to (dimensions,) masses, option by option, until the stage's limits are met."""
        channels, luck = self.distribution.channels, self._generator.uniform(size=len(masses))
        steps: list[tuple[float, int]] = []  # How much is removed in all when a dimension goes to its next option.
        for position in np.flatnonzero(masses).tolist():
            ratios = self._space.dimensions[position].keep_ratios[: base.candidate[position] + 1]
            middles = np.array([1 - luck[position]]) if self._is_branch[position] else (ratios[1:] + ratios[:-1]) / 2
            lost = np.maximum(base.kept[position] - middles, 0.0) * channels[position]
            steps += [(amount, position) for amount in (lost / masses[position]).tolist()]
        steps.sort()
        positions = np.array([position for _, position in steps])

        def candidate(count: int) -> Candidate:
            taken = np.bincount(positions[:count], minlength=len(self._space))
            return tuple(self._space.canonical(np.array(base.candidate) - taken).tolist())

        over, within, meets = 0, len(steps), limits.criterion(self._generator)
        while within - over > 1:
            middle = (over + within) // 2
            over, within = (over, middle) if meets(candidate(middle)) else (middle, within)
        found, amount = candidate(within), steps[within - 1][0]
        kept = np.maximum(base.kept - amount * masses / channels, 0.0)
        kept[self._is_branch] = self._space.keep_ratios(found)[self._is_branch]
        removed = (base.kept - kept) * channels * (masses > 0)
        return Sample(candidate=found, kept=kept, masses=removed / removed.sum() if removed.any() else masses)


class _Limits:
    """Where a stage ends: on the way from what the dense model takes to the budget, in even ratios.

    Args:
        problem: what is searched for.
        evaluator: says what candidates cost.
        share: of the way, 1 for the budget.

    Attributes:
        objective: of the problem, with the stage's limits in the place of the budget.
    """

    def __init__(self, problem: Problem, evaluator: BudgetedEvaluator, share: float) -> None:
        dense, budget = problem.dense.required_cost, problem.budget
        latency, memory = (
            least if least is None or whole is None else max(least, whole * (least / whole) ** share)
            for whole, least in ((dense.latency, budget.latency), (dense.memory.total, budget.memory))
        )
        limits = Budget(latency, None if memory is None else int(memory))
        self.objective: Objective = replace(problem.objective, budget=limits)
        self._space, self._evaluator = problem.space, evaluator
        self._projector = BudgetProjector(replace(problem, objective=self.objective), evaluator.surrogate)
        self._kept = 1 - share * (1 - self._share(problem.start))

    def criterion(self, generator: np.random.Generator) -> Callable[[Candidate], bool]:
        """Says whether a removal has gone far enough.

        By predictions, or by compiling where nothing predicts yet. Without a limit nothing tells where to stop: then it
        is somewhere around the share of the channels that the start keeps.
        """
        if not self.objective.budget.limited:
            most = self._kept ** generator.uniform(*SPAN)
            return lambda candidate: self._share(candidate) <= most

        def meets_budget(candidate: Candidate) -> bool:
            expected = self._projector.expects_within(candidate)
            if expected is not None:
                return expected
            try:
                return self.objective.budget.met_by(self._evaluator.cost(candidate))
            except CostError:
                return False

        return meets_budget

    def _share(self, candidate: Candidate) -> float:
        """Of all channels, those that a plan keeps."""
        gone = self._space.is_gone(np.array(candidate)[None])[0]
        is_group = np.array([not dimension.is_branch for dimension in self._space.dimensions], bool)
        kept = np.where(gone, 0, self._space.values(candidate))
        return float(kept[is_group].sum() / max(self._space.sizes[is_group].sum(), 1))


@ask_tell("rl_pruner")
def rl_pruner(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Learn where channels and branches are worth least, stage by stage, after the anchor."""
    yield from RLPruner(problem, evaluator, seed).propose()
