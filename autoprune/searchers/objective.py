"""What a search is for: what plans are paid, and the rule that says which of them is best.

Each reward is a sum of named terms. `autoprune.settings.RewardSettings` names a reward and gives its weights. In the
formulas below, the relative score is the plan's over the dense model's, and overrun is the largest relative excess over
a limit of the budget, 0 within it.

Every reward is linear in the score, from the floor on where it has one: `Objective.deviations` relies on that. And each
takes one plan or many at once: an agent is paid for hundreds of guessed plans between two that are scored.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from autoprune.records import Amount, Budget, Evaluation
from autoprune.records.measure import least_quality
from autoprune.registry import Registry
from autoprune.settings import RewardSettings
from autoprune.settings.reward import FLOORED

FAILED = -1.0  # At most, for a plan that could not be scored.
DISTINCT = 0.1  # Plans less unlike each other than this are one plan to whoever fine-tunes a few of them.


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcomes:
    """What rewards look at: numbers of one plan, or (m,) arrays of m plans.

    Attributes:
        score: from 0 to 1.
        latency: seconds per batch.
        memory: bytes of device memory in total; None when it is not known.
        flops: operations per image.
    """

    score: Amount
    latency: Amount
    memory: Amount | None
    flops: Amount


Terms = Mapping[str, Amount]
Reward = Callable[[Outcomes, Outcomes, Budget, RewardSettings], Terms]

REWARDS: Registry[Reward] = Registry("reward")


def outcome_of(evaluation: Evaluation) -> Outcomes:
    """Of one plan that was scored and costed."""
    cost = evaluation.required_cost
    flops = cost.flops / cost.target.batch_size
    return Outcomes(score=evaluation.score, latency=cost.latency, memory=cost.memory.total, flops=flops)


@REWARDS.add("accuracy_within_budget")
def accuracy_within_budget(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """Relative score - penalty x overrun."""
    return {
        "accuracy": plans.score / max(dense.score, 1e-9),
        "over_budget": -settings.penalty * _overrun(plans, budget),
    }


@REWARDS.add("latency_at_accuracy")
def latency_at_accuracy(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """1 - latency / dense latency - penalty x (max(0, 1 - score / floor) + overrun).

    The floor is `reward.accuracy_floor` times the dense model's score. A plan below it is no result, however fast; the
    budget, where there is one, holds besides. The penalty must be above 1 for a plan at the floor to be paid more than
    one of no latency and no score.
    """
    floor = max(settings.accuracy_floor * dense.score, 1e-9)
    return {
        "time_saved": 1 - plans.latency / dense.latency,
        "below_floor": -settings.penalty * np.maximum(0.0, 1 - plans.score / floor),
        "over_budget": -settings.penalty * _overrun(plans, budget),
    }


@REWARDS.add("mnasnet")
def mnasnet(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """Relative score x (latency / limit) ^ w (Tan et al., 2019, arXiv 1807.11626, equations 2 and 3).

    w is `exponent_within` for plans within the limit and `exponent` above it: alpha and beta of the paper, which takes
    alpha = beta = -0.07 (soft, the default) or alpha = 0 and beta = -1 (hard). Without a latency limit, latency is
    taken relative to the dense model's. The product enters as two terms: the score, and what the factor changes.
    """
    limit = budget.latency if budget.latency is not None else dense.latency
    within = settings.exponent if settings.exponent_within is None else settings.exponent_within
    exponent = np.where(plans.latency <= limit, within, settings.exponent)
    score = plans.score / max(dense.score, 1e-9)
    factor = (plans.latency / limit) ** exponent
    return {"accuracy": score, "latency": score * factor - score}


@REWARDS.add("amc_error")
def amc_error(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """-(1 - score) - penalty x overrun: AMC's reward for resource-constrained compression, R = -Error.

    He et al., 2018, arXiv 1802.03494, Search Protocols. AMC keeps every plan within the budget by clipping its actions;
    here the penalty does, or `search.project=true`.
    """
    return {"error": plans.score - 1, "over_budget": -settings.penalty * _overrun(plans, budget)}


@REWARDS.add("amc_flops")
def amc_flops(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """-(1 - score) x log(FLOPs per image): AMC's reward for accuracy-guaranteed compression, R = -Error x log(FLOPs).

    He et al., 2018, arXiv 1802.03494, Search Protocols. Two operations per multiply-accumulate, where AMC counts one.
    It does not look at the budget, which only says which plans may be a result: `search.project=true` keeps plans
    there.
    """
    # The logarithm stays above 0: an error is never paid for.
    return {"error_by_flops": (plans.score - 1) * np.log(np.maximum(plans.flops, 2.0))}


@REWARDS.add("amc_latency")
def amc_latency(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """-(1 - score) x log(latency per batch in nanoseconds): `amc_flops` with what a TPU takes instead of operations.

    In nanoseconds the logarithm is positive: below one unit, the formula would pay for errors.
    """
    return {"error_by_latency": (plans.score - 1) * np.log(np.maximum(plans.latency * 1e9, 2.0))}


def _overrun(plans: Outcomes, budget: Budget) -> Amount:
    """The largest relative excess over a limit, 0 within the budget."""
    return np.maximum(0.0, budget.excess(plans.latency, plans.memory))


@dataclass(frozen=True, eq=False)
class Objective:
    """What plans of one model are paid for, and which of them may be a result.

    Attributes:
        budget: limits in absolute units.
        dense: the evaluation of the unpruned model.
        settings: name and weights of the reward.
    """

    budget: Budget
    dense: Evaluation
    settings: RewardSettings

    @property
    def floor(self) -> float | None:
        """The score below which no plan is a result; None when the reward has no floor."""
        return least_accuracy(self.settings, self.dense.score)

    def terms(self, evaluation: Evaluation) -> Mapping[str, float]:
        """The named terms of a plan's reward; their sum is the reward.

        A plan that could not be scored is paid as one that is as slow as the dense model and always wrong would be,
        and not more than -1.

        Raises:
            UnknownNameError: there is no such reward.
        """
        if evaluation.failed:
            worthless = replace(outcome_of(self.dense), score=0.0)
            return {"failed": min(FAILED, float(self.rewards(worthless)))}
        return {name: float(value) for name, value in self._terms(outcome_of(evaluation)).items()}

    def reward(self, evaluation: Evaluation) -> float:
        """The sum of the terms."""
        return float(sum(self.terms(evaluation).values()))

    def rewards(self, plans: Outcomes) -> Amount:
        """The rewards of plans that have not failed: one, or (m,)."""
        return sum(self._terms(plans).values())

    def deviations(self, plans: Outcomes, of_score: Amount) -> Amount:
        """Standard deviations of the rewards of plans that may be results, as far as they come from the score's.

        Above a floor the score is not paid for: then they are 0.

        Args:
            plans: one or m, whatever their scores.
            of_score: standard deviations of the scores, 0 or more.
        """
        # From the least score that may be a result: differences of two rewards that are nearly the same are rounded.
        least = self.floor or 0.0
        return self.rewards(replace(plans, score=least + of_score)) - self.rewards(replace(plans, score=least))

    @cached_property
    def _terms(self) -> Callable[[Outcomes], Terms]:
        reward, dense = REWARDS.get(self.settings.name), outcome_of(self.dense)
        return lambda plans: reward(plans, dense, self.budget, self.settings)

    def met_by(self, evaluation: Evaluation) -> bool:
        """Whether a plan was scored and is within every limit, the floor of the score among them."""
        if evaluation.cost is None or evaluation.failed or not self.budget.met_by(evaluation.cost):
            return False
        return self.floor is None or evaluation.score >= self.floor

    def best(self, evaluations: Iterable[Evaluation]) -> Evaluation | None:
        """Of the plans that may be a result the one of the highest reward, of equal ones the fastest; None if none."""
        return next(iter(self.finalists(evaluations, 1)), None)

    def finalists(
        self,
        evaluations: Iterable[Evaluation],
        count: int,
        apart: float = DISTINCT,
        worth: Callable[[Evaluation], float] | None = None,
    ) -> list[Evaluation]:
        """Of the plans that may be a result those of the highest rewards, of equal ones the fastest first.

        A search converges: its best plans are often one plan but for a few channels, of which fine-tuning one tells
        what fine-tuning the others would. So each finalist differs from those before it; only where too few do, the
        best of the rest fill up, and stand last.

        Args:
            evaluations: of plans, in any order; repeats count once.
            count: how many at most.
            apart: by how much they differ, see `unlikeness`. Of plans on a line, such as uniform ones, 0 takes the
                best: those that are far from it are far worse.
            worth: what plans are ranked by; None is the reward.
        """
        worth = worth or self.reward
        able = [evaluation for evaluation in evaluations if self.met_by(evaluation)]
        ranked: dict[str, Evaluation] = {}
        for evaluation in sorted(able, key=lambda e: (-worth(e), e.required_cost.latency)):
            ranked.setdefault(evaluation.key, evaluation)
        chosen: dict[str, Evaluation] = {}
        for key, evaluation in ranked.items():
            if len(chosen) < count and all(unlikeness(evaluation, other) >= apart for other in chosen.values()):
                chosen[key] = evaluation
        rest = [evaluation for key, evaluation in ranked.items() if key not in chosen]
        return [*chosen.values(), *rest[: count - len(chosen)]]


def least_accuracy(settings: RewardSettings, dense_accuracy: float) -> float | None:
    """What a plan must reach under a reward with a floor; None without.

    Args:
        settings: name and floor of the reward.
        dense_accuracy: of the dense model on the same images, or its score for the floor of scores.
    """
    return least_quality(dense_accuracy, settings.accuracy_floor) if settings.name in FLOORED else None


def best_finished(
    settings: RewardSettings, accuracies: Sequence[float], latencies: Sequence[float], dense_accuracy: float
) -> int:
    """Which of some finished plans is the best: its place among them, the first of equal ones.

    It is the most accurate one; under a reward with a floor the fastest of those that are above it, if any are.

    Args:
        settings: name and floor of the reward.
        accuracies: on the reward split after fine-tuning, one or more.
        latencies: seconds per batch of the finished models.
        dense_accuracy: of the dense model, on the same images.
    """
    least = least_accuracy(settings, dense_accuracy)
    above = [number for number, accuracy in enumerate(accuracies) if least is not None and accuracy >= least]
    if above:
        return min(above, key=latencies.__getitem__)
    known = [-math.inf if math.isnan(accuracy) else accuracy for accuracy in accuracies]
    return max(range(len(known)), key=known.__getitem__)


def unlikeness(one: Evaluation, other: Evaluation) -> float:
    """How far two plans of one model are apart: the mean over groups of |log(width / other width)|.

    A group that leaves with a branch counts as one of one channel.
    """
    groups = {**one.widths, **other.widths}
    logs = [abs(math.log(one.widths.get(group, 1) / other.widths.get(group, 1))) for group in groups]
    return sum(logs) / max(len(logs), 1)
