"""The SQLite file of a cache: opened for what it is, set aside when it is something else, and kept small.

A file that is corrupt, somebody else's, or of another version of this format is renamed with a warning, so that it is
neither trusted nor lost. Several processes may have it open, some of them while another one sets it aside.
"""

import contextlib
import logging
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# Raised when the table changes; part of the name of the user's cache.
SCHEMA_VERSION = 3
# Tells our files from all others, whatever they are called: "APRU".
_APPLICATION_ID = 0x41505255
_LOCK_SECONDS = 10
_PAGE_SIZE = 16384
_LOG_SIZE = 4 * 2**20
_SIDE_FILES = ("", "-wal", "-shm")


class _ForeignFileError(sqlite3.DatabaseError):
    """A database that is not ours, or of another version."""


@dataclass(frozen=True)
class CacheFile:
    """An open file.

    Attributes:
        database: the connection; transactions are begun by hand.
        inode: which file it is, whatever its name leads to later.
    """

    database: sqlite3.Connection
    inode: int


def open_file(path: Path, read_only: bool) -> CacheFile | None:
    """The file, or None with a warning when there can be none."""
    try:
        if read_only:
            if not path.exists():
                logger.info("there is no cost cache at %s yet", path)
                return None
            # A connection that makes no file: what SQLite keeps beside a file is used when it is there.
            live = all(path.with_name(path.name + suffix).exists() for suffix in _SIDE_FILES)
            address = f"{path.absolute().as_uri()}?mode=ro" + ("" if live else "&immutable=1")
            database = sqlite3.connect(
                address, uri=True, timeout=_LOCK_SECONDS, check_same_thread=False, isolation_level=None
            )
            with contextlib.ExitStack() as on_error:
                on_error.callback(database.close)
                _check(database)
                file = CacheFile(database, path.stat().st_ino)
                on_error.pop_all()
                return file
        path.parent.mkdir(parents=True, exist_ok=True)
        found = path.stat().st_ino if path.exists() else None
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            if not is_unusable(error):
                raise
            set_aside(path, found, error)
            return _connect(path)
    except (OSError, sqlite3.Error) as error:
        logger.warning("no cost cache at %s (%s); every compilation is done anew", path, error)
        return None


def is_unusable(error: sqlite3.Error) -> bool:
    """Whether an error says that the file itself is corrupt, or no database, or not ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, _ForeignFileError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def set_aside(path: Path, inode: int | None, error: Exception) -> None:
    """Rename a file that cannot be used, unless another process has done it already.

    Args:
        path: the file.
        inode: what the path led to, and must still lead to.
        error: why it cannot be used.

    Raises:
        OSError: it cannot be renamed.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino != inode:
            return
        number = 1
        while path.with_name(f"{path.name}.unusable-{number}").exists():
            number += 1
        aside = f"{path.name}.unusable-{number}"
        for suffix in _SIDE_FILES:
            # What has not reached the main file yet belongs to it.
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(path.with_name(aside + suffix))
        logger.warning("the cost cache %s cannot be used (%s); it now is %s", path, error, path.with_name(aside))


def shrink(database: sqlite3.Connection, limit: int) -> None:
    """Delete entries, a fiftieth of them at a time and the longest unused first, until they fit into a limit.

    The file keeps its size for new ones.

    Args:
        database: the open file.
        limit: bytes of the file that may hold something.

    Raises:
        sqlite3.Error: there is nothing left to delete, or it failed.
    """
    while True:
        names = ("page_size", "page_count", "freelist_count")
        size, pages, free = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        if size * (pages - free) <= limit:
            return
        count = database.execute("SELECT count(*) FROM costs").fetchone()[0]
        if count == 0:
            raise sqlite3.DataError("the limit is less than an empty file needs")
        oldest = "SELECT key FROM costs ORDER BY used LIMIT ?"
        database.execute(f"DELETE FROM costs WHERE key IN ({oldest})", (max(1, count // 50),))


def _connect(path: Path) -> CacheFile:
    # Transactions are begun by hand: another process must see a table and its version, or neither.
    database = sqlite3.connect(path, timeout=_LOCK_SECONDS, check_same_thread=False, isolation_level=None)
    with contextlib.ExitStack() as on_error:
        on_error.callback(database.close)
        # Before anything is changed in what may be somebody else's; in one transaction, or it sees half of what another
        # process makes at this moment.
        database.execute("BEGIN")
        _check(database)
        database.execute("COMMIT")
        # Results of a few kB shall lie several to a page; without effect on a file that is not empty.
        database.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                # For this SQLite does not wait when another process has the file open.
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        # A crash of the machine may take the last entries, never the file; one of this process takes nothing.
        database.execute("PRAGMA synchronous = NORMAL")
        # The log beside the file is emptied, and cut, at 4 MB.
        database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_SIZE // _PAGE_SIZE}")
        database.execute(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
        database.execute("BEGIN IMMEDIATE")
        _check(database)
        # A lookup compares the key that lies beside the result, not one in an index.
        database.execute(
            "CREATE TABLE IF NOT EXISTS costs (key TEXT PRIMARY KEY, used REAL NOT NULL, result BLOB NOT NULL) "
            "WITHOUT ROWID"
        )
        database.execute("CREATE INDEX IF NOT EXISTS costs_by_use ON costs (used)")
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
        file = CacheFile(database, path.stat().st_ino)
        on_error.pop_all()
        return file


def _check(database: sqlite3.Connection) -> None:
    """Refuse a database with anything in it that is not ours.

    Raises:
        sqlite3.DatabaseError: it is not a cost cache of this version, or not a database.
    """
    try:
        names = ("application_id", "user_version")
        marks = tuple(database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        empty = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    except UnicodeDecodeError as error:  # Of what SQLite says of a damaged schema, which it quotes.
        raise _ForeignFileError(f"its schema is damaged: {error}") from error
    if marks != (_APPLICATION_ID, SCHEMA_VERSION) and not (empty and marks == (0, 0)):
        raise _ForeignFileError("it is not a cost cache of this version")
