"""What a search is for: every searcher maximises the same reward, and the same rule says which plan is best.

A reward is a sum of named terms. `autoprune.settings.RewardSettings` names it and gives its weights.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from autoprune.records import Budget, Evaluation
from autoprune.registry import Registry
from autoprune.settings import RewardSettings

Reward = Callable[[Evaluation, Evaluation, Budget, RewardSettings], Mapping[str, float]]

REWARDS: Registry[Reward] = Registry("reward")

FAILED = -1.0  # A plan that could not be scored: worse than any that could.


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

    def terms(self, evaluation: Evaluation) -> Mapping[str, float]:
        """The named terms of a plan's reward; their sum is the reward.

        Raises:
            UnknownNameError: there is no such reward.
        """
        if evaluation.failed:
            return {"failed": FAILED}
        return REWARDS.get(self.settings.name)(evaluation, self.dense, self.budget, self.settings)

    def reward(self, evaluation: Evaluation) -> float:
        """The sum of the terms."""
        return float(sum(self.terms(evaluation).values()))

    def met_by(self, evaluation: Evaluation) -> bool:
        """Whether a plan was scored and is within every limit."""
        return evaluation.cost is not None and not evaluation.failed and self.budget.met_by(evaluation.cost)

    def best(self, evaluations: Iterable[Evaluation]) -> Evaluation | None:
        """Of the plans that may be a result the one of the highest reward, of equal ones the fastest; None if none."""
        able = [evaluation for evaluation in evaluations if self.met_by(evaluation)]
        return max(able, key=lambda e: (self.reward(e), -e.cost.latency), default=None)


@REWARDS.add("accuracy_within_budget")
def accuracy_within_budget(
    evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings
) -> Mapping[str, float]:
    """Score relative to the dense model's, less a penalty proportional to how far the plan is over the budget."""
    return {
        "accuracy": evaluation.score / max(dense.score, 1e-9),
        "over_budget": -settings.penalty * max(0.0, budget.overrun(evaluation.cost)),
    }


@REWARDS.add("mnasnet")
def mnasnet(evaluation: Evaluation, dense: Evaluation, budget: Budget, settings: RewardSettings) -> Mapping[str, float]:
    """Score x (latency / limit) ^ exponent (Tan et al., 2019, arXiv 1807.11626, equation 2), soft on both sides.

    Without a latency limit, latency is taken relative to the dense model's. The product enters as two terms: the
    accuracy, and what the factor changes.
    """
    limit = budget.latency if budget.latency is not None else dense.cost.latency
    score = evaluation.score / max(dense.score, 1e-9)
    factor = (evaluation.cost.latency / limit) ** settings.exponent
    return {"accuracy": score, "latency": score * factor - score}
