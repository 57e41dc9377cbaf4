"""Entries for caches of costs, and caches full of them."""

import random
import sqlite3
from contextlib import closing

from autoprune.cost.cache import CostCache

# Damage begins behind the first page of a file, which is read when it is opened.
PAGE = 16384


def result(number, size=200):
    """Like a compilation's, of about 2 kB; incompressible enough to fill a file."""
    chance = random.Random(number)
    return {"number": number, "kernels": [[[n], chance.random()] for n in range(size // 2)]}


def healthy(path):
    """Whether SQLite finds nothing wrong with a file."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def filled(path, count=300):
    """Make a cache with so many entries, by the keys "0", "1", ..."""
    with closing(CostCache(path)) as cache:
        for number in range(count):
            cache.put(f"{number}", result(number))
