"""What a search must keep within: the options of `budget`, each a share or an amount."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.errors import SettingsError
from autoprune.registry import suggestion
from autoprune.settings.checking import check
from autoprune.settings.reward import FLOORED, RewardSettings

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
# How else people write these.
_SPELLINGS = {"µs": "us", "μs": "us", "KB": "kB", "kiB": "KiB"}
_AMOUNT = re.compile(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?|[-+]?inf|nan)\s*([a-zA-Zµμ%]*)\s*")


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

    def describe(self, amount: float, dense: float) -> str:
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
    written = None if isinstance(value, bool) else _AMOUNT.fullmatch(str(value))
    try:
        number, unit = (float(written[1]), _SPELLINGS.get(written[2], written[2])) if written else (math.nan, "")
    except ValueError:  # Digits and points that are no number.
        number, unit = math.nan, ""
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
        latency (share, or time): at most this share of the dense latency, above 0 and at most 1, or this time per
            batch, written with its unit: `200us`, `0.3ms`, `1e-3s`; null is no limit.
        memory (share, or bytes): at most this share of the dense model's device memory, above 0 and at most 1, or so
            many bytes, written with their unit: `12MiB`, `1GiB`, `500kB` (kB, MB and GB are powers of 1,000, KiB, MiB
            and GiB of 1,024); null is no limit.
    """

    latency: Any = 0.4
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


def check_budget(budget: BudgetSettings, reward: RewardSettings, *, several: bool = False) -> None:
    """Refuse a search without any limit, unless its reward needs none, and amounts that are of no single target.

    Args:
        budget: the limits.
        reward: the search's reward, which may need no limit.
        several: whether it is for several targets at once.

    Raises:
        SettingsError: the limits do not go with the rest.
    """
    for name, limit in budget.limits.items():
        wanted = "a share of the dense model's with target.also: an amount means something else on every target"
        check(limit.is_share or not several, f"budget.{name}", wanted, limit)
    enough = bool(budget.limits) or reward.name in FLOORED
    check(enough, "budget", f"a latency or memory limit; only reward={FLOORED[0]} needs none", "none")


def name_budgets(latencies: Sequence[float], memories: Sequence[float]) -> dict[str, BudgetSettings]:
    """Budgets that each limit one thing, by what they are called in names and tables.

    Args:
        latencies: shares of the dense latency.
        memories: shares of the dense model's device memory.
    """
    named = {f"{share:g}": BudgetSettings(share, None) for share in latencies}
    return named | {f"memory {share:g}": BudgetSettings(None, share) for share in memories}
