"""What can be found out about plans without evaluating them: predictions of score and cost, as rewards.

Costs come from the surrogate, which knows the network's layers; where there is none, or it has not learnt yet, they are
learnt from the evaluated plans as scores are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from autoprune.planning import Candidate
from autoprune.searchers.budgeted import BudgetedEvaluator
from autoprune.searchers.objective import Outcomes
from autoprune.searchers.projection import prediction_error
from autoprune.searchers.quality import QualityModel

UNSURE = 0.03  # Relative error of a predicted cost, before it is known how large it is.
FAILED = 0.0  # Score of a plan that could not be scored.
SHARES = (0.005, 0.995)  # Bounds of scores. Their log-odds are learnt: they are nearer to linear in the logarithms.


@dataclass(frozen=True, eq=False, kw_only=True)
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
        branches = () if self._space.depth is None else self._space.depth.positions
        layers = [max(dimension.producers, 1) for dimension in problem.features.dimensions]
        self._score = QualityModel(self._space.sizes, layers, branches)
        self._latency = QualityModel(self._space.sizes, branches=branches)
        self._best: float | None = None  # Expected reward of the best that may be a result, once it is asked for.

    def learn(self, underway: Sequence[Candidate] = ()) -> None:
        """Take the whole history into account, plans that were scored again, and the dense model.

        Args:
            underway: candidates whose scores are taken to be what is expected of them now ("kriging believer",
                Ginsbourger et al., 2010), so that none like them looks worth an evaluation before theirs are known.
        """
        believed = self._score.predict(self._space.values(np.array(underway)))[0] if underway else np.empty(0)
        again = [(candidate, one) for candidate, found in self.evaluator.again.items() for one in found]
        trials = [*((trial.candidate, trial.evaluation) for trial in self.evaluator.history), *again]
        candidates = np.array([self._space.full, *(candidate for candidate, _ in trials)])
        seen = [self._problem.dense, *(evaluation for _, evaluation in trials)]
        values = self._space.values(candidates)
        scores = logit(np.clip([FAILED if e.failed else e.score for e in seen], *SHARES))
        rows = np.array([*candidates, *underway])
        self._score.learn(self._space.values(rows), np.concatenate([scores, believed]))
        costed = [number for number, evaluation in enumerate(seen) if evaluation.cost is not None]
        latencies = np.log([seen[number].required_cost.latency for number in costed])
        self._latency.learn(values[costed], latencies)
        self._best = None

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
        budget, objective = self._problem.budget, self._problem.objective
        dense, surrogate = self._problem.dense.required_cost, self.evaluator.surrogate
        odds, unsure = self._score.predict(self._space.values(candidates))
        scores = expit(odds)
        latencies, memories = self.costs(candidates)
        left = self._problem.features.flops_share(list(self._space.keep_ratios(candidates).T))
        flops = np.broadcast_to(np.maximum(dense.flops * left, 1) / dense.target.batch_size, len(candidates))
        plans = Outcomes(score=scores, latency=latencies, memory=memories, flops=flops)
        able = Outcomes(
            score=np.maximum(scores, objective.floor or 0.0),
            latency=latencies if budget.latency is None else np.minimum(latencies, budget.latency),
            memory=memories if memories is None or budget.memory is None else np.minimum(memories, budget.memory),
            flops=flops,
        )
        if doubt is None:
            error = None if surrogate is None else prediction_error(surrogate, budget)
            # Of normal errors the standard deviation is 1.25 times their mean.
            doubt = UNSURE if error is None else max(1.25 * error, 1e-3)
        excess = budget.excess(latencies, memories)
        reached: np.ndarray | float = 1.0
        if objective.floor is not None:
            # Scores beyond the bounds are learnt as if they were there.
            reached = norm.cdf((odds - logit(np.clip(objective.floor, *SHARES))) / np.maximum(unsure, 1e-9))
        many = len(candidates)
        return Predictions(
            rewards=np.broadcast_to(objective.rewards(plans), many),
            met=np.broadcast_to(objective.rewards(able), many),
            deviations=np.broadcast_to(objective.deviations(able, unsure * scores * (1 - scores)), many),
            used=np.broadcast_to(1 + excess, many),
            within=np.broadcast_to(norm.cdf(-excess / doubt), many),
            reached=reached,
        )

    def improvement(self, predictions: Predictions) -> np.ndarray:
        """(m,) Expected improvements over the best so far, as it is expected to be, not as its score had it by luck.

        Of none, over the dense model's score at no score at all.
        """
        if self._best is None:
            met_by = self._problem.objective.met_by
            able = [trial.candidate for trial in self.evaluator.history if met_by(trial.evaluation)]
            self._best = float(self.predict(np.array(able)).met.max()) if able else 0.0
        return predictions.improvement(self._best)
