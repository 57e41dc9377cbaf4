"""What an agent can find out about plans without scoring them: guesses of their score and cost, as rewards.

Costs come from the surrogate, which knows the network's layers; where there is none, or it has not learnt yet, they are
learnt from the scored plans as scores are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from autoprune.records import CostReport, Evaluation, Memory
from autoprune.searchers.problem import Problem
from autoprune.searchers.score_model import ScoreModel
from autoprune.searchers.scorer import Scorer
from autoprune.searchers.steering import guess_error

UNSURE = 0.03  # Relative error of a guessed cost, before it is known how large it is.
FAILED = 0.0  # Score of a plan that could not be scored.
SHARES = (0.005, 0.995)  # Bounds of scores. Their log-odds are learnt: they are nearer to linear in the logarithms.


@dataclass(frozen=True, eq=False)
class Guesses:
    """What some plans are thought to be worth.

    Attributes:
        rewards: (m,) expected rewards.
        met: (m,) the same, if each is within the budget after all, and not below the floor of the score.
        deviations: (m,) standard deviations of these, as far as they come from the score.
        used: (m,) share of the budget's tightest limit that each uses; above 1 it misses the budget, 0 without limits.
        within: (m,) probability that each is within the budget.
        reached: (m,) probability that each reaches the floor of the score; 1 where there is none.
    """

    rewards: np.ndarray
    met: np.ndarray
    deviations: np.ndarray
    used: np.ndarray
    within: np.ndarray
    reached: np.ndarray | float = 1.0

    @property
    def able(self) -> np.ndarray:
        """(m,) Probability that each may be a result."""
        return self.within * self.reached

    def improvement(self, best: float) -> np.ndarray:
        """(m,) Expected improvement over a reward (Jones et al., 1998), times the probability of being a result."""
        deviations = np.maximum(self.deviations, 1e-9)
        ahead = (self.met - best) / deviations
        return self.able * deviations * (ahead * norm.cdf(ahead) + norm.pdf(ahead))


class Imagination:
    """Guesses rewards of plans from the plans that one searcher has had scored.

    Args:
        problem: groups, budget and what plans are paid.
        scorer: whose course is learnt from.

    Attributes:
        problem, scorer: as given.
    """

    def __init__(self, problem: Problem, scorer: Scorer) -> None:
        self.problem = problem
        self.scorer = scorer
        self._names = [group.name for group in problem.groups]
        sizes = [group.size for group in problem.groups]
        layers = [len({m.layer for m in group.members if m.role == "produces"}) or 1 for group in problem.groups]
        self._score = ScoreModel(sizes, layers)
        self._latency = ScoreModel(sizes)
        self._dense = problem.dense.cost

    def learn(self) -> None:
        """Take all of the course into account, and the dense model."""
        seen = [self.problem.dense, *self.scorer.course]
        widths = np.array([[evaluation.widths[name] for name in self._names] for evaluation in seen], float)
        scores = np.array([FAILED if e.failed else e.score for e in seen])
        self._score.learn(widths, logit(np.clip(scores, *SHARES)))
        costed = [number for number, evaluation in enumerate(seen) if evaluation.cost is not None]
        latencies = np.log([seen[number].cost.latency for number in costed])
        self._latency.learn(widths[costed], latencies)

    def costs(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(m,) latencies in seconds and (m,) bytes of device memory, or None, of (m, groups) plans."""
        surrogate = self.scorer.surrogate
        if surrogate is not None and surrogate.ready:
            return surrogate.predict_all(widths)
        return np.exp(self._latency.predict(widths)[0]), None

    def guesses(self, widths: np.ndarray, doubt: float | None = None) -> Guesses:
        """What plans are worth.

        Args:
            widths: (m, groups) channels left, in the order of the groups.
            doubt: relative error of a guessed cost; by default, as far as guesses have been off.
        """
        odds, unsure = self._score.predict(widths)
        scores = expit(odds)
        unsure_scores = unsure * scores * (1 - scores)
        latencies, memories = self.costs(widths)
        rewards, met, deviations, excess = (np.empty(len(widths)) for _ in range(4))
        budget, objective = self.problem.budget, self.problem.objective
        floor = objective.floor or 0.0
        for number, (score, latency) in enumerate(zip(scores, latencies, strict=True)):
            memory = None if memories is None else float(memories[number])
            excess[number] = budget.excess(float(latency), memory)
            rewards[number] = objective.reward(self._evaluation(widths[number], score, float(latency), memory))
            limits = _at_most(latency, budget.latency), _at_most(memory, budget.memory)
            able = self._evaluation(widths[number], max(score, floor), *limits)
            met[number] = objective.reward(able)
            deviations[number] = objective.deviation(able, float(unsure_scores[number]))
        within = norm.cdf(-excess / (self._error() if doubt is None else doubt))
        return Guesses(rewards, met, deviations, 1 + excess, within, self._reached(odds, unsure))

    def best(self) -> float:
        """The reward of the best plan so far; of none, that of the dense model's score at no score at all."""
        found = self.problem.objective.best(self.scorer.course)
        return 0.0 if found is None else self.problem.objective.reward(found)

    def _reached(self, odds: np.ndarray, unsure: np.ndarray) -> np.ndarray | float:
        """(m,) Probability that a score is at the floor or above it, from (m,) log-odds and their deviations."""
        floor = self.problem.objective.floor
        if floor is None:
            return 1.0
        # Scores beyond the bounds are learnt as if they were there.
        return norm.cdf((odds - logit(np.clip(floor, *SHARES))) / np.maximum(unsure, 1e-9))

    def _error(self) -> float:
        """Standard deviation of a guessed cost relative to the true one: of normal errors, 1.25 times their mean."""
        error = None if self.scorer.surrogate is None else guess_error(self.scorer.surrogate, self.problem.budget)
        return UNSURE if error is None else max(1.25 * error, 1e-3)

    def _evaluation(self, widths: Sequence[float], score: float, latency: float, memory: float | None) -> Evaluation:
        """As if the plan had been scored; a memory that is not known exceeds nothing."""
        share = np.prod(np.array(widths) / [group.size for group in self.problem.groups]) ** (2 / len(widths))
        kept: Memory = replace(self._dense.memory, total=None if memory is None else int(memory))
        flops = max(int(self._dense.flops * share), 1)
        cost: CostReport = replace(self._dense, latency=latency, flops=flops, memory=kept)
        return Evaluation("", {}, {}, float(score), cost)


def _at_most(amount: float | None, limit: float | None) -> float | None:
    """The amount, or the limit where there is one and it is exceeded."""
    return amount if amount is None or limit is None else min(float(amount), limit)
