"""What searchers are paid for: the config group `reward`."""

import math
from dataclasses import dataclass

from autoprune.settings.checking import check

# The rewards that minimise latency at a score no plan may be below: under these a search needs no budget.
FLOORED = ("latency_at_accuracy",)


@dataclass(frozen=True)
class RewardSettings:
    """What searchers are paid for. `autoprune.searchers.objective` has each reward's formula.

    Attributes:
        name: a registered reward. `accuracy_within_budget`: score relative to the dense model's - penalty x how far
            over the budget. `latency_at_accuracy`: 1 - latency / dense latency - penalty x (1 - score / floor, below
            the floor); a budget holds besides, and `budget.latency=null` takes the default one away. `mnasnet`: score x
            (latency / limit) ^ exponent. `amc_error`: -error - penalty x how far over the budget (AMC with constrained
            resources). `amc_flops`: -error x log(FLOPs per image) (AMC with guaranteed accuracy, blind to the budget).
            `amc_latency`: -error x log(latency in ns), blind to the budget too.
        penalty (factor): for being over the budget by its whole size, in units of the dense score
            (`accuracy_within_budget`) or of the score (`amc_error`); for a score of nothing, in units of the dense
            latency (`latency_at_accuracy`).
        exponent (power): of latency over its limit, for `mnasnet`: beta of the paper.
        exponent_within (power): the same for plans within the limit, alpha of the paper; null is as `exponent`, the
            paper's soft form, and 0 with `exponent=-1` is its hard form.
        accuracy_floor (share): of the dense model's score that a plan keeps, above 0 and at most 1, for
            `latency_at_accuracy`. The score is that of the search, before fine-tuning.
    """

    name: str = "accuracy_within_budget"
    penalty: float = 2.0
    exponent: float = -0.07
    exponent_within: float | None = None
    accuracy_floor: float = 0.9

    def __post_init__(self) -> None:
        # An infinite one would pay 0 x infinity, which is no number, to every plan within the budget.
        check(0 <= self.penalty < math.inf, "reward.penalty", "0 or more, and finite", self.penalty)
        share = "a share of the dense model's score, above 0 and at most 1"
        check(0 < self.accuracy_floor <= 1, "reward.accuracy_floor", share, self.accuracy_floor)
        for name in ("exponent", "exponent_within"):
            value = getattr(self, name)
            wanted = "0 or less, and finite: a slower plan is worth no more"
            check(value is None or -math.inf < value <= 0, f"reward.{name}", wanted, value)
