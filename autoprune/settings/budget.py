"""What a search must keep within and what it is paid for: the limits, each as a share or an amount, and the reward."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.errors import SettingsError
from autoprune.registry import suggestion
from autoprune.settings.checking import check

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
# How else people write these.
_SPELLINGS = {"µs": "us", "μs": "us", "KB": "kB", "kiB": "KiB"}
_AMOUNT = re.compile(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?|[-+]?inf|nan)\s*([a-zA-Zµμ%]*)\s*")

# The rewards that minimise latency at a score no plan may be below: under these a search needs no budget.
FLOORED = ("latency_at_accuracy",)


@dataclass(frozen=True)
class Limit:
    """One limit as it was asked for.

    Attributes:
        value: a share of the dense model's, or a number of the unit.
        unit: such as `us` or `MiB`; empty for a share.
        factor: seconds or bytes in the unit; 1 for a share.
    """

    value: float
    unit: str = ""
    factor: float = 1.0

    @property
    def is_share(self) -> bool:
        """Whether it is relative to the dense model."""
        return not self.unit

    def absolute(self, dense: float) -> float:
        """In seconds or bytes, for a dense model that takes so many."""
        return self.value * (dense if self.is_share else self.factor)

    def told(self, amount: float, dense: float) -> str:
        """Seconds or bytes in the way that the limit was asked for, such as `0.254` or `20.4us`.

        Rounded up, so that it can be asked for in turn: of what is possible, a little less may not be.
        """
        scaled = amount / (dense if self.is_share else self.factor)
        step = 1e-3 if self.is_share else 10.0 ** (math.floor(math.log10(scaled)) - 3) if scaled > 0 else 1.0
        # What is a step already up to its last bit stays.
        return f"{math.ceil(scaled / step - 1e-6) * step:.{3 if self.is_share else 4}g}{self.unit}"

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}"


def limit_of(option: str, value: Any, units: Mapping[str, float], examples: str) -> Limit | None:
    """The limit that an option's value means.

    Args:
        option: its name, for messages.
        value: a share as a number, an amount as text with a unit, or None.
        units: seconds or bytes by unit.
        examples: amounts, for messages.

    Raises:
        SettingsError: it is neither; the message has both ways of saying it.
    """
    if value is None:
        return None
    wanted = f"a share of the dense model's, above 0 and at most 1 (0.5 is half), an amount ({examples}), or null"
    written = _AMOUNT.fullmatch(str(value))
    check(written is not None and not isinstance(value, bool), option, wanted, value)
    try:
        number, unit = float(written[1]), _SPELLINGS.get(written[2], written[2])
    except ValueError:
        check(False, option, wanted, value)
    if not unit:
        check(0 < number <= 1, option, wanted, value)
        return Limit(number)
    if unit not in units:
        raise SettingsError(f"{option} must be {wanted}. There is no unit '{unit}' for it. {suggestion(unit, units)}")
    check(0 < number < math.inf, option, f"above 0 and finite: {wanted}", value)
    return Limit(number, unit, units[unit])


@dataclass(frozen=True)
class BudgetSettings:
    """Limits that the result must meet, each a share of the dense model's cost or an amount.

    Attributes:
        latency: share of the dense latency, above 0 and at most 1, or time per batch with its unit, such as `200us`,
            `0.3ms` or `1e-3s`; null is no limit.
        memory: share of the dense model's device memory, likewise, or bytes with their unit, such as `12MiB`, `1GiB` or
            `500kB` (kB, MB and GB are powers of 1,000, KiB, MiB and GiB of 1,024).
    """

    latency: Any = 0.6
    memory: Any = None

    def __post_init__(self) -> None:
        _ = self.limits  # refuses what is no limit

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits that there are, by `latency` and `memory`.

        Raises:
            SettingsError: a value is no limit.
        """
        found = {
            "latency": limit_of("budget.latency", self.latency, SECONDS, "200us, 0.3ms"),
            "memory": limit_of("budget.memory", self.memory, BYTES, "12MiB, 500kB"),
        }
        return {name: limit for name, limit in found.items() if limit is not None}


@dataclass(frozen=True)
class RewardSettings:
    """What searchers are paid for. Each reward's formula stands in `autoprune.searchers.rewards`.

    Attributes:
        name: a registered reward: `accuracy_within_budget`, `latency_at_accuracy`, `mnasnet`, `amc_error`, `amc_flops`,
            `amc_latency`.
        penalty: for being over the budget by its whole size, in units of the dense score (`accuracy_within_budget`), of
            the score (`amc_error`), or for a score of nothing in units of the dense latency (`latency_at_accuracy`).
        exponent: how latency weighs against the score, for `mnasnet`.
        exponent_within: the same for plans within the latency limit; null is as `exponent`, the paper's soft form, 0
            with `exponent=-1` its hard one.
        accuracy_floor: for `latency_at_accuracy`, share of the dense model's score that a plan keeps, above 0 and at
            most 1. It is the score that a plan has in the search, before fine-tuning.
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


def check_budget(budget: BudgetSettings, reward: RewardSettings, *, several: bool = False) -> None:
    """Refuse a search without any limit, unless its reward needs none, and amounts that are of no single target.

    Args:
        budget: the limits.
        reward: of the search.
        several: whether it is for several targets at once.

    Raises:
        SettingsError: the limits do not go with the rest.
    """
    for name, limit in budget.limits.items():
        wanted = "a share of the dense model's with target.also: an amount means something else on every target"
        check(limit.is_share or not several, f"budget.{name}", wanted, limit)
    enough = bool(budget.limits) or reward.name in FLOORED
    check(enough, "budget", f"a latency or memory limit; only reward={FLOORED[0]} needs none", "none")


def named_budgets(latencies: Sequence[float], memories: Sequence[float]) -> dict[str, BudgetSettings]:
    """Budgets that each limit one thing, by what they are called in names and tables.

    Args:
        latencies: shares of the dense latency.
        memories: shares of the dense model's device memory.
    """
    named = {f"{share:g}": BudgetSettings(share, None) for share in latencies}
    return named | {f"memory {share:g}": BudgetSettings(None, share) for share in memories}
