"""What a search is for: every searcher maximises the same reward, and the same rule says which plan is best."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autoprune.records import Amount, Budget, Evaluation
from autoprune.searchers.rewards import REWARDS, Outcomes, Terms, outcome_of
from autoprune.settings import RewardSettings
from autoprune.settings.reward import FLOORED

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

    def _terms(self, plans: Outcomes) -> Terms:
        return REWARDS.get(self.settings.name)(plans, outcome_of(self.dense), self.budget, self.settings)

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
    """What a plan must reach under a reward with a floor; None without.

    Args:
        settings: name and floor of the reward.
        dense_accuracy: of the dense model on the same images, or its score for the floor of scores.
    """
    return settings.accuracy_floor * dense_accuracy if settings.name in FLOORED else None


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
    return max(range(len(accuracies)), key=accuracies.__getitem__)


def unlikeness(one: Evaluation, other: Evaluation) -> float:
    """How far two plans of one model are apart: the mean over groups of |log(width / other width)|."""
    logs = [abs(math.log(width / other.widths[group])) for group, width in one.widths.items()]
    return sum(logs) / max(len(logs), 1)
