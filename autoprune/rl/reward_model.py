"""What an agent can find out about plans without evaluating them: predictions of score and cost, as rewards.

Costs come from the surrogate, which knows the network's layers; where there is none, or it has not learnt yet, they are
learnt from the evaluated plans as scores are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from autoprune.rl.kriging import Kriging
from autoprune.searchers import BudgetedEvaluator
from autoprune.searchers.projection import prediction_error
from autoprune.searchers.rewards import Outcomes

UNSURE = 0.03  # Relative error of a predicted cost, before it is known how large it is.
FAILED = 0.0  # Score of a plan that could not be scored.
SHARES = (0.005, 0.995)  # Bounds of scores. Their log-odds are learnt: they are nearer to linear in the logarithms.


@dataclass(frozen=True, eq=False)
class Predictions:
    """What some candidates are expected to be worth.

    Attributes:
        rewards: (m,) expected rewards.
        met: (m,) expected rewards if each is within the budget after all, and not below the floor of the score.
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


class RewardModel:
    """Predicts rewards of candidates from the trials of one searcher.

    Args:
        evaluator: whose history is learnt from, and whose problem is searched.

    Attributes:
        evaluator: the searcher's evaluator, with its history, problem and surrogate.
    """

    def __init__(self, evaluator: BudgetedEvaluator) -> None:
        problem = evaluator.problem
        self.evaluator = evaluator
        self._problem = problem
        self._space = problem.space
        self._score = Kriging(self._space.sizes, [max(group.producers, 1) for group in problem.features.groups])
        self._latency = Kriging(self._space.sizes)

    def learn(self) -> None:
        """Take the whole history into account, and the dense model."""
        trials = list(self.evaluator.history)
        candidates = np.array([self._space.full, *(trial.candidate for trial in trials)])
        seen = [self._problem.dense, *(trial.evaluation for trial in trials)]
        values = self._space.values(candidates)
        scores = np.array([FAILED if e.failed else e.score for e in seen])
        self._score.learn(values, logit(np.clip(scores, *SHARES)))
        costed = [number for number, evaluation in enumerate(seen) if evaluation.cost is not None]
        latencies = np.log([seen[number].cost.latency for number in costed])
        self._latency.learn(values[costed], latencies)

    def costs(self, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(m,) latencies in seconds and (m,) bytes of device memory, or None, of (m, dimensions) candidates."""
        surrogate, values = self.evaluator.surrogate, self._space.values(candidates)
        if surrogate is not None and surrogate.ready:
            return surrogate.predict_all(values)
        return np.exp(self._latency.predict(values)[0]), None

    def predict(self, candidates: np.ndarray, doubt: float | None = None) -> Predictions:
        """What candidates are worth.

        Args:
            candidates: (m, dimensions).
            doubt: relative error of a predicted cost; by default, as large as errors have been.
        """
        odds, unsure = self._score.predict(self._space.values(candidates))
        scores = expit(odds)
        unsure_scores = unsure * scores * (1 - scores)
        latencies, memories = self.costs(candidates)
        budget, objective = self._problem.budget, self._problem.objective
        plans = Outcomes(scores, latencies, memories, self._flops(candidates))
        limits = _at_most(latencies, budget.latency), _at_most(memories, budget.memory)
        able = Outcomes(np.maximum(scores, objective.floor or 0.0), *limits, plans.flops)
        excess = budget.excess(latencies, memories)
        within = norm.cdf(-excess / (self._error() if doubt is None else doubt))
        found = objective.rewards(plans), objective.rewards(able), objective.deviations(able, unsure_scores)
        rewards, met, deviations, used, within = (
            np.broadcast_to(each, len(candidates)) for each in (*found, 1 + excess, within)
        )
        return Predictions(rewards, met, deviations, used, within, self._probability_of_floor(odds, unsure))

    def improvement(self, predictions: Predictions) -> np.ndarray:
        """(m,) Expected improvements over the best so far; of none, over the dense model's score at no score at all."""
        best = self.evaluator.history.best
        return predictions.improvement(0.0 if best is None else best.reward)

    def _probability_of_floor(self, odds: np.ndarray, unsure: np.ndarray) -> np.ndarray | float:
        """(m,) Probability that a score is at the floor or above it, from (m,) log-odds and their deviations."""
        floor = self._problem.objective.floor
        if floor is None:
            return 1.0
        # Scores beyond the bounds are learnt as if they were there.
        return norm.cdf((odds - logit(np.clip(floor, *SHARES))) / np.maximum(unsure, 1e-9))

    def _error(self) -> float:
        """Standard deviation of a predicted cost relative to the true one: of normal errors 1.25 times their mean."""
        surrogate = self.evaluator.surrogate
        error = None if surrogate is None else prediction_error(surrogate, self._problem.budget)
        return UNSURE if error is None else max(1.25 * error, 1e-3)

    def _flops(self, candidates: np.ndarray) -> np.ndarray:
        """(m,) Operations per image: every layer is thought to lose the same share of its inputs and outputs."""
        dense, ratios = self._problem.dense.cost, self._space.keep_ratios(candidates)
        shares = ratios.prod(1) ** (2 / ratios.shape[1])
        return np.maximum(dense.flops * shares, 1) / dense.target.batch_size


def _at_most(amounts: np.ndarray | None, limit: float | None) -> np.ndarray | None:
    """(m,) The amounts, or the limit where there is one and it is exceeded."""
    return amounts if amounts is None or limit is None else np.minimum(amounts, limit)
