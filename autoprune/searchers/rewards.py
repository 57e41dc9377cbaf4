"""What plans are paid: each reward is a sum of named terms.

`autoprune.settings.RewardSettings` names a reward and gives its weights. In the formulas below, the relative score is
the plan's over the dense model's, and overrun is the largest relative excess over a limit of the budget, 0 within it.

Every reward is linear in the score, from the floor on where it has one: `Objective.deviation` relies on that. And each
takes one plan or many at once: an agent is paid for hundreds of guessed plans between two that are scored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from autoprune.records import Amount, Budget, Evaluation
from autoprune.registry import Registry
from autoprune.settings import RewardSettings


@dataclass(frozen=True, eq=False)
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
    cost = evaluation.cost
    return Outcomes(evaluation.score, cost.latency, cost.memory.total, cost.flops / cost.target.batch_size)


@REWARDS.add("accuracy_within_budget")
def accuracy_within_budget(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """Relative score - penalty x overrun."""
    return {
        "accuracy": _relative(plans, dense),
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
    score = _relative(plans, dense)
    factor = (plans.latency / limit) ** exponent
    return {"accuracy": score, "latency": score * factor - score}


@REWARDS.add("amc_error")
def amc_error(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """-(1 - score) - penalty x overrun: AMC's reward for resource-constrained compression, R = -Error.

    He et al., 2018, arXiv 1802.03494, Search Protocols. AMC keeps every plan within the budget by clipping its actions;
    here the penalty does, or `search.project=true`.
    """
    return {"error": -_error(plans), "over_budget": -settings.penalty * _overrun(plans, budget)}


@REWARDS.add("amc_flops")
def amc_flops(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """-(1 - score) x log(FLOPs per image): AMC's reward for accuracy-guaranteed compression, R = -Error x log(FLOPs).

    He et al., 2018, arXiv 1802.03494, Search Protocols. Two operations per multiply-accumulate, where AMC counts one.
    It does not look at the budget, which only says which plans may be a result: `search.project=true` keeps plans
    there.
    """
    return {"error_by_flops": -_error(plans) * _log(plans.flops)}


@REWARDS.add("amc_latency")
def amc_latency(plans: Outcomes, dense: Outcomes, budget: Budget, settings: RewardSettings) -> Terms:
    """-(1 - score) x log(latency per batch in nanoseconds): `amc_flops` with what a TPU takes instead of operations.

    In nanoseconds the logarithm is positive: below one unit, the formula would pay for errors.
    """
    return {"error_by_latency": -_error(plans) * _log(plans.latency * 1e9)}


def _relative(plans: Outcomes, dense: Outcomes) -> Amount:
    """Scores relative to the dense model's."""
    return plans.score / max(dense.score, 1e-9)


def _overrun(plans: Outcomes, budget: Budget) -> Amount:
    """The largest relative excess over a limit, 0 within the budget."""
    return np.maximum(0.0, budget.excess(plans.latency, plans.memory))


def _error(plans: Outcomes) -> Amount:
    """What scores lack of 1."""
    return 1 - plans.score


def _log(value: Amount) -> Amount:
    """The natural logarithm, which stays above 0: an error is never paid for."""
    return np.log(np.maximum(value, 2.0))
