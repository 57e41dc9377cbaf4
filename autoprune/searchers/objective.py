"""What a search is for: every searcher maximises the same reward, and the same rule says which plan is best.

A reward is a sum of named terms. `autoprune.settings.RewardSettings` names it and gives its weights. In the formulas
below, the relative score is the evaluation's over the dense model's, and overrun is the largest relative excess over a
limit of the budget, 0 within it.

Every reward is linear in the score, from the floor on where it has one: `Objective.deviation` relies on that.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autoprune.records import Budget, Evaluation
from autoprune.registry import Registry
from autoprune.settings import RewardSettings
from autoprune.settings.budget import FLOORED

Reward = Callable[[Evaluation, Evaluation, Budget, RewardSettings], Mapping[str, float]]

REWARDS: Registry[Reward] = Registry("reward")

FAILED = -1.0  # At most, for a plan that could not be scored.
DISTINCT = 0.1  # Plans less unlike each other than this are one plan to whoever fine-tunes a few of them.


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
        return floor_of(self.dense, self.settings) if self.settings.name in FLOORED else None

    def terms(self, evaluation: Evaluation) -> Mapping[str, float]:
        """The named terms of a plan's reward; their sum is the reward.

        A plan that could not be scored is paid as one that is as slow as the dense model and always wrong would be,
        and not more than -1.

        Raises:
            UnknownNameError: there is no such reward.
        """
        reward = REWARDS.get(self.settings.name)
        if evaluation.failed:
            worthless = replace(self.dense, accuracy=0.0, score=0.0)
            return {"failed": min(FAILED, sum(reward(worthless, self.dense, self.budget, self.settings).values()))}
        return reward(evaluation, self.dense, self.budget, self.settings)

    def reward(self, evaluation: Evaluation) -> float:
        """The sum of the terms."""
        return float(sum(self.terms(evaluation).values()))

    def deviation(self, evaluation: Evaluation, of_score: float) -> float:
        """Standard deviation of the reward of a plan that may be a result, as far as it comes from the score's.

        Above a floor the score is not paid for: then it is 0.

        Args:
            evaluation: of the plan; it has not failed.
            of_score: standard deviation of the score, 0 or more.
        """
        # From the least score that may be a result: differences of two rewards that are nearly the same are rounded.
        least = self.floor or 0.0
        more, none = (self.reward(replace(evaluation, accuracy=s, score=s)) for s in (least + of_score, least))
        return more - none

    def met_by(self, evaluation: Evaluation) -> bool:
        """Whether a plan was scored and is within every limit, the floor of the score among them."""
        if evaluation.cost is None or evaluation.failed or not self.budget.met_by(evaluation.cost):
            return False
        return self.floor is None or evaluation.score >= self.floor

    def best(self, evaluations: Iterable[Evaluation]) -> Evaluation | None:
        """Of the plans that may be a result the one of the highest reward, of equal ones the fastest; None if none."""
        return next(iter(self.finalists(evaluations, 1)), None)

    def finalists(self, evaluations: Iterable[Evaluation], count: int, apart: float = DISTINCT) -> list[Evaluation]:
        """Of the plans that may be a result those of the highest rewards, of equal ones the fastest first.

        A search converges: its best plans are often one plan but for a few channels, of which fine-tuning one tells
        what fine-tuning the others would. So each finalist differs from those before it; only where too few do, the
        best of the rest fill up, and stand last.

        Args:
            evaluations: of plans, in any order; repeats count once.
            count: how many at most.
            apart: by how much they differ, see `unlikeness`. Of plans on a line, such as uniform ones, 0 takes the
                best: those that are far from it are far worse.
        """
        able = [evaluation for evaluation in evaluations if self.met_by(evaluation)]
        ranked: dict[str, Evaluation] = {}
        for evaluation in sorted(able, key=lambda e: (-self.reward(e), e.cost.latency)):
            ranked.setdefault(evaluation.key, evaluation)
        chosen: dict[str, Evaluation] = {}
        for key, evaluation in ranked.items():
            if len(chosen) < count and all(unlikeness(evaluation, other) >= apart for other in chosen.values()):
                chosen[key] = evaluation
        rest = [evaluation for key, evaluation in ranked.items() if key not in chosen]
        return [*chosen.values(), *rest[: count - len(chosen)]]


def least_accuracy(settings: RewardSettings, dense_accuracy: float) -> float | None:
    """What a finished plan must reach under a reward with a floor; None without.

    Args:
        settings: of the reward.
        dense_accuracy: of the dense model, on the same images.
    """
    return settings.accuracy_floor * dense_accuracy if settings.name in FLOORED else None


def best_finished(
    settings: RewardSettings, accuracies: Sequence[float], latencies: Sequence[float], dense_accuracy: float
) -> int:
    """Which of some finished plans is the best: its place among them, the first of equal ones.

    It is the most accurate one; under a reward with a floor the fastest of those that are above it, if any are.

    Args:
        settings: of the reward.
        accuracies: on the reward split after fine-tuning, one or more.
        latencies: of the finished models.
        dense_accuracy: of the dense model, on the same images.
    """
    least = least_accuracy(settings, dense_accuracy)
    above = [number for number, accuracy in enumerate(accuracies) if least is not None and accuracy >= least]
    if above:
        return min(above, key=latencies.__getitem__)
    return max(range(len(accuracies)), key=accuracies.__getitem__)


def unlikeness(one: Evaluation, other: Evaluation) -> float:
    """How far two plans of one model are apart: the mean over groups of |log(width / other width)|."""
    logs = [abs(math.log(width / other.widths[group])) for group, width in one.widths.items()]
    return sum(logs) / max(len(logs), 1)


def floor_of(dense: Evaluation, settings: RewardSettings) -> float:
    """The score that a plan must keep, for a share of the dense model's."""
    return settings.accuracy_floor * dense.score


@REWARDS.add("accuracy_within_budget")
def accuracy_within_budget(
    evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings
) -> Mapping[str, float]:
    """Relative score - penalty x overrun."""
    return {
        "accuracy": _relative(evaluation, dense),
        "over_budget": -settings.penalty * _overrun(evaluation, budget),
    }


@REWARDS.add("latency_at_accuracy")
def latency_at_accuracy(
    evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings
) -> Mapping[str, float]:
    """1 - latency / dense latency - penalty x (max(0, 1 - score / floor) + overrun).

    The floor is `reward.accuracy_floor` times the dense model's score. A plan below it is no result, however fast; the
    budget, where there is one, holds besides. The penalty must be above 1 for a plan at the floor to be paid more than
    one of no latency and no score.
    """
    floor = max(floor_of(dense, settings), 1e-9)
    return {
        "time_saved": 1 - evaluation.cost.latency / dense.cost.latency,
        "below_floor": -settings.penalty * max(0.0, 1 - evaluation.score / floor),
        "over_budget": -settings.penalty * _overrun(evaluation, budget),
    }


@REWARDS.add("mnasnet")
def mnasnet(evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings) -> Mapping[str, float]:
    """Relative score x (latency / limit) ^ w (Tan et al., 2019, arXiv 1807.11626, equations 2 and 3).

    w is `exponent_within` for plans within the limit and `exponent` above it: alpha and beta of the paper, which takes
    alpha = beta = -0.07 (soft, the default) or alpha = 0 and beta = -1 (hard). Without a latency limit, latency is
    taken relative to the dense model's. The product enters as two terms: the score, and what the factor changes.
    """
    limit = budget.latency if budget.latency is not None else dense.cost.latency
    within = settings.exponent if settings.exponent_within is None else settings.exponent_within
    exponent = within if evaluation.cost.latency <= limit else settings.exponent
    score = _relative(evaluation, dense)
    factor = (evaluation.cost.latency / limit) ** exponent
    return {"accuracy": score, "latency": score * factor - score}


@REWARDS.add("amc_error")
def amc_error(
    evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings
) -> Mapping[str, float]:
    """-(1 - score) - penalty x overrun: AMC's reward for resource-constrained compression, R = -Error.

    He et al., 2018, arXiv 1802.03494, Search Protocols. AMC keeps every plan within the budget by clipping its actions;
    here the penalty does, or `search.project=true`.
    """
    return {"error": -_error(evaluation), "over_budget": -settings.penalty * _overrun(evaluation, budget)}


@REWARDS.add("amc_flops")
def amc_flops(
    evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings
) -> Mapping[str, float]:
    """-(1 - score) x log(FLOPs per image): AMC's reward for accuracy-guaranteed compression, R = -Error x log(FLOPs).

    He et al., 2018, arXiv 1802.03494, Search Protocols. Two operations per multiply-accumulate, where AMC counts one.
    It does not look at the budget, which only says which plans may be a result: `search.project=true` keeps plans
    there.
    """
    return {"error_by_flops": -_error(evaluation) * _log(evaluation.cost.flops / evaluation.cost.target.batch_size)}


@REWARDS.add("amc_latency")
def amc_latency(
    evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings
) -> Mapping[str, float]:
    """-(1 - score) x log(latency per batch in nanoseconds): `amc_flops` with what a TPU takes instead of operations.

    In nanoseconds the logarithm is positive: below one unit, the formula would pay for errors.
    """
    return {"error_by_latency": -_error(evaluation) * _log(evaluation.cost.latency * 1e9)}


def _relative(evaluation: Evaluation, dense: Evaluation) -> float:
    """The score relative to the dense model's."""
    return evaluation.score / max(dense.score, 1e-9)


def _overrun(evaluation: Evaluation, budget: Budget) -> float:
    """The largest relative excess over a limit, 0 within the budget."""
    return max(0.0, budget.overrun(evaluation.cost))


def _error(evaluation: Evaluation) -> float:
    """What the score lacks of 1."""
    return 1 - evaluation.score


def _log(value: float) -> float:
    """The natural logarithm, which stays above 0: an error is never paid for."""
    return math.log(max(value, 2.0))
