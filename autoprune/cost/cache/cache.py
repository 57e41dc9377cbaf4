"""Compilations remembered on disk, shared by every search of a user.

One SQLite file, in `cache_file.py`'s care. What is in it was computed by exactly the versions named in its keys, so
nothing expires; the bytes are bounded, and what has not been used for longest goes first. A cache is never worth a
crash: whatever is wrong with the file or the disk is said once, and the search goes on.
"""

import hashlib
import json
import logging
import sqlite3
import threading
import time
import zlib
from pathlib import Path
from typing import Any

from autoprune.cost.cache import cache_file
from autoprune.settings.places import user_cache_folder

logger = logging.getLogger(__name__)

SIZE_LIMIT = 256 * 2**20
# What a write that failed, for a full disk perhaps, is not tried again for: each try may wait for a lock.
_PAUSE_SECONDS = 60


def cache_key(**parts: Any) -> str:
    """Hash of everything that a figure depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class CostCache:
    """Results by key, as compressed JSON with the key in it. Safe for threads and processes; close it when done.

    A result that `put` has returned from is in the file, whatever then happens to this process.

    Args:
        path: the SQLite file; made with its folder when missing. A file that is corrupt or something else is set aside.
        limit: bytes that the file may hold. A result larger than a quarter of it is not kept.
        read_only: write nothing and make nothing; a missing file is an empty cache.
    """

    def __init__(self, path: Path, *, limit: int = SIZE_LIMIT, read_only: bool = False) -> None:
        self.path = path
        self._limit = limit
        self._read_only = read_only
        self._lock = threading.Lock()
        self._used: dict[str, float] = {}
        self._said: set[str] = set()
        self._paused_until = 0.0
        self._file = cache_file.open_file(path, read_only)

    def get(self, key: str) -> dict[str, Any] | None:
        """The result stored under a key, or None."""
        with self._lock:
            if self._file is None:
                return None
            try:
                row = self._file.database.execute("SELECT result FROM costs WHERE key = ?", (key,)).fetchone()
                stored, result = json.loads(zlib.decompress(row[0])) if row else (key, None)
                if stored != key:
                    raise ValueError(f"under '{key}' it is the result of '{stored}'")
            except sqlite3.Error as error:
                if not self._start_anew(error):
                    self._say("read", f"could not be read ({error}); compiling instead")
                return None
            except (ValueError, TypeError, zlib.error) as error:
                # SQLite does not check what it reads; the compressed form carries its key and a checksum.
                self._say("read", f"holds a damaged result ({error}); compiling instead")
                return None
            if row and not self._read_only:
                # Written with the next result, or at the end: reading alone takes no lock of the file.
                self._used[key] = time.time()
        return result

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Store a result; a full or read-only disk is a warning, once."""
        if self._read_only:
            return
        data = zlib.compress(json.dumps([key, result]).encode())
        with self._lock:
            if len(data) > self._limit // 4:
                # Everything else would go for it.
                self._say("size", f"does not keep a result of {len(data)} bytes: that is too much of its limit")
                return
            self._write([(key, time.time(), data)])

    def close(self) -> None:
        """Note what has been used, and close the file."""
        with self._lock:
            if self._used:
                self._write([])
            if self._file is not None:
                self._file.database.close()
                self._file = None

    def _write(self, entries: list[tuple[str, float, bytes]]) -> None:
        """Store results and times of use in one transaction, and keep within the limit."""
        if time.monotonic() < self._paused_until:
            return
        for _ in range(2):
            if self._file is None:
                return
            database = self._file.database
            try:
                try:
                    database.execute("BEGIN IMMEDIATE")
                    database.executemany("INSERT OR REPLACE INTO costs VALUES (?, ?, ?)", entries)
                    used = [(when, key) for key, when in self._used.items()]
                    database.executemany("UPDATE costs SET used = ? WHERE key = ?", used)
                    cache_file.shrink(database, self._limit)
                    database.execute("COMMIT")
                    self._used.clear()
                finally:
                    # Some failures have already ended the transaction.
                    if database.in_transaction:
                        database.execute("ROLLBACK")
            except sqlite3.Error as error:
                # Damage found while writing: the result goes to the new file.
                if self._start_anew(error):
                    continue
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
                self._say("write", f"could not be written ({error}); new compilations are not remembered meanwhile")
            return

    def _start_anew(self, error: sqlite3.Error) -> bool:
        """After damage that shows only in use: whether the file was set aside and another one is in its place."""
        if self._read_only or self._file is None or not cache_file.is_unusable(error):
            return False
        file, self._file = self._file, None
        file.database.close()
        self._used.clear()
        try:
            cache_file.set_aside(self.path, file.inode, error)
        except OSError:
            return False
        self._file = cache_file.open_file(self.path, self._read_only)
        return self._file is not None

    def _say(self, kind: str, what: str) -> None:
        """A warning, once of each kind."""
        if kind not in self._said:
            self._said.add(kind)
            logger.warning("the cost cache %s %s", self.path, what)


def open_cache(setting: str | Path | None) -> CostCache | None:
    """The cache that a setting asks for.

    Args:
        setting: `auto` is the user's cache; `ro` is the user's cache, read and never written; `off` or None is none;
            anything else is the path of a file. The user's cache is named after its format: versions of autoprune
            with different formats, used in turns, leave each other's alone.
    """
    if not setting or setting == "off":
        return None
    if setting in ("auto", "ro"):
        path = user_cache_folder() / f"costs-{cache_file.SCHEMA_VERSION}.sqlite"
        return CostCache(path, read_only=setting == "ro")
    return CostCache(Path(setting))
