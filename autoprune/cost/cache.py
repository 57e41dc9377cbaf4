"""Compilations remembered on disk, shared by every search of a user.

One SQLite file. What is in it was computed by exactly the versions named in its keys, so nothing expires. A file
that is corrupt or is not ours is set aside with a warning and a new one is begun: a cache is never worth a crash.
"""

import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.records import CostReport, Memory, Target

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 1


def user_cache_folder() -> Path:
    """Where autoprune keeps what can be computed again: AUTOPRUNE_CACHE, or a folder in the user's cache."""
    chosen = os.environ.get("AUTOPRUNE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoprune"


def report_from_json(data: Mapping[str, Any]) -> CostReport:
    """The inverse of `dataclasses.asdict` for a cost report."""
    return CostReport(**{**data, "target": Target(**data["target"]), "memory": Memory(**data["memory"])})


def cache_key(**parts: Any) -> str:
    """Hash of everything that a figure depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class CostCache:
    """Results by key, as JSON. Safe for several threads and processes.

    Args:
        path: the SQLite file; made with its folder when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._database = self._open()

    def get(self, key: str) -> dict[str, Any] | None:
        """The result stored under a key, or None."""
        if self._database is None:
            return None
        try:
            with self._lock:
                row = self._database.execute("SELECT result FROM costs WHERE key = ?", (key,)).fetchone()
            return json.loads(row[0]) if row else None
        except (sqlite3.Error, ValueError) as error:
            logger.warning("the cost cache %s could not be read (%s); compiling instead", self.path, error)
            return None

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Store a result; a full or read-only disk is a warning."""
        if self._database is None:
            return
        try:
            with self._lock:
                self._database.execute("INSERT OR REPLACE INTO costs VALUES (?, ?)", (key, json.dumps(result)))
        except sqlite3.Error as error:
            logger.warning("the cost cache %s could not be written: %s", self.path, error)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _open(self) -> sqlite3.Connection | None:
        for _ in range(2):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                return self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    logger.warning("no cost cache at %s (%s); every compilation is done anew", self.path, error)
                    return None
                self._set_aside(error)
            except OSError as error:
                logger.warning("no cost cache at %s (%s); every compilation is done anew", self.path, error)
                return None
        return None

    def _connect(self) -> sqlite3.Connection:
        # Transactions are begun by hand: another process must see a table and its version, or neither.
        database = sqlite3.connect(self.path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            _use_write_ahead_log(database)
            database.execute("BEGIN IMMEDIATE")
            found = database.execute("PRAGMA user_version").fetchone()[0]
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and (found != _SCHEMA_VERSION or tables != {"costs"}):
                raise sqlite3.DatabaseError("it is not a cost cache of this version")
            database.execute("CREATE TABLE IF NOT EXISTS costs (key TEXT PRIMARY KEY, result TEXT NOT NULL)")
            database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self, error: Exception) -> None:
        """Rename a file that cannot be used, so that it is neither trusted nor lost."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.unusable-{number}")).exists():
            number += 1
        self.path.rename(aside)
        logger.warning("the cost cache %s cannot be used (%s); it now is %s", self.path, error, aside)


def _use_write_ahead_log(database: sqlite3.Connection, seconds: float = 10) -> None:
    """Switch the journal mode, for which SQLite does not wait when another process has the file open."""
    end = time.monotonic() + seconds
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
