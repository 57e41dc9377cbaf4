"""Costs remembered on disk: `cache.py` is what others use, `cache_file.py` the SQLite file below it."""

from autoprune.cost.cache.cache import CostCache, cache_key, open_cache

__all__ = ["CostCache", "cache_key", "open_cache"]
