"""What the agent is paid for, as named terms of which the reward is the sum."""

from collections.abc import Callable, Mapping

from autoprune.records import Budget, Evaluation
from autoprune.registry import Registry
from autoprune.settings import RewardSettings

Reward = Callable[[Evaluation, Evaluation, Budget, RewardSettings], Mapping[str, float]]

REWARDS: Registry[Reward] = Registry("reward")

FAILED = -1.0  # A plan that could not be scored: worse than any that could.


def reward_terms(
    evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings
) -> Mapping[str, float]:
    """The named terms of a plan's reward; their sum is the reward.

    Args:
        evaluation: of the plan.
        dense: of the unpruned model.
        budget: limits in absolute units.
        settings: name and weights of the reward.

    Raises:
        UnknownNameError: there is no such reward.
    """
    if evaluation.failed:
        return {"failed": FAILED}
    return REWARDS.get(settings.name)(evaluation, dense, budget, settings)


@REWARDS.add("accuracy_within_budget")
def accuracy_within_budget(
    evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings
) -> Mapping[str, float]:
    """Accuracy relative to the dense model's, less a penalty proportional to how far the plan is over the budget."""
    return {
        "accuracy": evaluation.accuracy / max(dense.accuracy, 1e-9),
        "over_budget": -settings.penalty * max(0.0, budget.overrun(evaluation.cost)),
    }


@REWARDS.add("mnasnet")
def mnasnet(evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings) -> Mapping[str, float]:
    """Accuracy x (latency / limit) ^ exponent (Tan et al., 2019, arXiv 1807.11626, equation 2), soft on both sides.

    Without a latency limit, latency is taken relative to the dense model's. The product enters as two terms: the
    accuracy, and what the factor changes.
    """
    limit = budget.latency if budget.latency is not None else dense.cost.latency
    score = evaluation.accuracy / max(dense.accuracy, 1e-9)
    factor = (evaluation.cost.latency / limit) ** settings.exponent
    return {"accuracy": score, "latency": score * factor - score}
