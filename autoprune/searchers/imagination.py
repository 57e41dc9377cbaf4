"""What an agent can find out about plans without scoring them: guesses of their score and cost, as rewards.

Costs come from the surrogate, which knows the network's layers; where there is none, or it has not learnt yet, they are
learnt from the scored plans as scores are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from autoprune.searchers.problem import Problem
from autoprune.searchers.rewards import Outcomes
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
        budget, objective = self.problem.budget, self.problem.objective
        plans = Outcomes(scores, latencies, memories, self._flops(widths))
        limits = _at_most(latencies, budget.latency), _at_most(memories, budget.memory)
        able = Outcomes(np.maximum(scores, objective.floor or 0.0), *limits, plans.flops)
        excess = budget.excess(latencies, memories)
        within = norm.cdf(-excess / (self._error() if doubt is None else doubt))
        found = objective.rewards(plans), objective.rewards(able), objective.deviations(able, unsure_scores)
        rewards, met, deviations, used, within = (
            np.broadcast_to(each, len(widths)) for each in (*found, 1 + excess, within)
        )
        return Guesses(rewards, met, deviations, used, within, self._reached(odds, unsure))

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

    def _flops(self, widths: np.ndarray) -> np.ndarray:
        """(m,) Operations per image: every layer is thought to lose the same share of its inputs and outputs."""
        shares = (widths / [group.size for group in self.problem.groups]).prod(1) ** (2 / widths.shape[1])
        return np.maximum(self._dense.flops * shares, 1) / self._dense.target.batch_size


def _at_most(amounts: np.ndarray | None, limit: float | None) -> np.ndarray | None:
    """(m,) The amounts, or the limit where there is one and it is exceeded."""
    return amounts if amounts is None or limit is None else np.minimum(amounts, limit)
