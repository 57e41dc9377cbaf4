"""What a settings class refuses with."""

from typing import Any

from autoprune.errors import SettingsError


def check(holds: bool, option: str, wanted: str, received: Any) -> None:
    """Refuse a value that an option cannot have.

    Raises:
        SettingsError: `holds` is false.
    """
    if not holds:
        raise SettingsError(f"{option} must be {wanted}. Received: {received}")
