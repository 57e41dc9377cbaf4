"""Where things are kept that no option names."""

import os
from pathlib import Path

# A variable of a process that wants no progress shown, which its jobs inherit.
QUIET = "AUTOPRUNE_QUIET"


def user_cache_folder() -> Path:
    """Where autoprune keeps what can be computed again: AUTOPRUNE_CACHE, or a folder in the user's cache."""
    chosen = os.environ.get("AUTOPRUNE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoprune"
