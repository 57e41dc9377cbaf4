"""What a settings class refuses with."""

from collections.abc import Hashable, Sequence
from typing import Any

from autoprune.errors import SettingsError


def check(holds: bool, option: str, wanted: str, received: Any) -> None:
    """Refuse a value that an option cannot have.

    Raises:
        SettingsError: `holds` is false.
    """
    if not holds:
        raise SettingsError(f"{option} must be {wanted}. Received: {received}")


def check_list(option: str, values: Sequence[Hashable], told_apart: Sequence[Hashable], *, empty: bool = False) -> None:
    """Refuse an empty list, unless it may be, and values that are given twice.

    Args:
        option: its name, for messages.
        values: what the option was given.
        told_apart: for each value what must differ from the others'.
        empty: whether it may be.

    Raises:
        SettingsError: the list cannot be used.
    """
    check(empty or len(values) > 0, option, "one value or more, such as [a,b]", "an empty list")
    twice = [value for value, key in zip(values, told_apart, strict=True) if told_apart.count(key) > 1]
    check(not twice, option, "different from each other", f"{', '.join(map(str, twice))} in {list(values)}")


def check_seed(option: str, seed: int) -> None:
    """Refuse what random number generators cannot begin from.

    Raises:
        SettingsError: the seed cannot be used.
    """
    check(0 <= seed < 2**32, option, "a whole number from 0 to 4294967295", seed)


def check_shares(option: str, shares: Sequence[float]) -> None:
    """Refuse budgets that are no shares of a dense model's cost, or are given twice; there may be none.

    Raises:
        SettingsError: the list cannot be used.
    """
    check_list(option, shares, shares, empty=True)
    for share in shares:
        check(0 < share <= 1, option, "shares of the dense model's, above 0 and at most 1 (0.5 is half)", share)
