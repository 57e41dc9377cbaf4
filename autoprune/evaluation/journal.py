"""Keeps every evaluation of a search on disk, so that nothing is evaluated twice and a killed search loses nothing.

One SQLite file in the run folder. `evaluations` holds the results by plan; `requests` holds who asked for which
plan in which order, so that each searcher's course can be drawn although they share results. Rows have checksums: what
is damaged is dropped, and evaluated again.
"""

import dataclasses
import itertools
import json
import logging
import math
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from autoprune.errors import JournalError
from autoprune.records import Evaluation
from autoprune.records.plain import from_plain

FORMAT = "autoprune.journal"
VERSION = 3
_TABLES = {
    "meta": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
    "evaluations": "key TEXT PRIMARY KEY, record TEXT NOT NULL, checksum INTEGER NOT NULL",
    "requests": (
        "searcher TEXT, number INTEGER, key TEXT NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (searcher, number)"
    ),
}
_WAYS_OUT = {
    sqlite3.SQLITE_FULL: "Make room, then go on: all evaluations until here are kept.",
    sqlite3.SQLITE_READONLY: "Let this user write there, then go on: all evaluations until here are kept.",
    sqlite3.SQLITE_CANTOPEN: "Let this user read and write there.",
    sqlite3.SQLITE_IOERR: "Look after the disk, then go on: all evaluations until here are kept.",
    sqlite3.SQLITE_BUSY: "Another process holds it: wait until that has ended.",
}

logger = logging.getLogger(__name__)


class Journal:
    """Evaluations of one model on one target.

    Args:
        path: the SQLite file; made when missing.
        identity: everything that a result depends on besides the plan: fingerprints of model, weights and data,
            target, settings. A journal with another identity is refused.

    Raises:
        JournalError: the file is none, of another version, belongs to another search, or cannot be read or written;
            that may also come later, from any method.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        with self._errors_told("opened"):
            self._database = _connect(self.path)
            try:
                sound = self._database.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
                    raise
                sound = False
            if not sound:
                self._rescue()
            self._prepare(json.loads(json.dumps(identity)))

    def find(self, key: str, draw: int = 0) -> Evaluation | None:
        """The evaluation of the plan with this key by this draw, if there is one."""
        with self._errors_told("read"):
            found = self._database.execute(
                "SELECT record FROM evaluations WHERE key = ?", (_row(key, draw),)
            ).fetchone()
            return from_plain(Evaluation, json.loads(found[0])) if found else None

    def add(self, evaluation: Evaluation, draw: int = 0) -> None:
        """Store an evaluation; it is on disk when this returns."""
        self._write("evaluations", _row(evaluation.key, draw), json.dumps(evaluation_to_json(evaluation)))

    def add_request(self, searcher: str, number: int, key: str) -> None:
        """Note that a searcher's evaluation of this number, from 1, was of the plan with this key."""
        self._write("requests", searcher, number, key)

    def course(self, searcher: str) -> list[Evaluation]:
        """A searcher's evaluations in the order in which it asked; repeats included."""
        with self._errors_told("read"):
            rows = self._database.execute(
                "SELECT record FROM requests JOIN evaluations USING (key) WHERE searcher = ? ORDER BY number",
                (searcher,),
            )
            return [from_plain(Evaluation, json.loads(record)) for (record,) in rows]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _write(self, table: str, *values: Any) -> None:
        with self._errors_told("written"), self._database:
            row = (*values, _checksum(values))
            self._database.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    @contextmanager
    def _errors_told(self, what: str) -> Iterator[None]:
        """Within it an error of SQLite says what to do."""
        try:
            yield
        except (sqlite3.Error, ValueError, RecursionError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            way = _WAYS_OUT.get(code, "Move it away to start anew.")
            raise JournalError(f"The journal '{self.path}' cannot be {what}: {error}. {way}") from error

    def _prepare(self, identity: Mapping[str, Any]) -> None:
        with self._database:
            for table, columns in _TABLES.items():
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            meta = {"format": FORMAT, "version": VERSION, "identity": identity}
            for key, value in meta.items():
                self._database.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
        rows = self._database.execute("SELECT key, value FROM meta")
        stored = {key: json.loads(value) for key, value in rows}
        if stored.get("format") != FORMAT or stored.get("version") != VERSION:
            raise JournalError(f"'{self.path}' is not a journal of version {VERSION}. Move it away to start anew.")
        there = stored["identity"] if isinstance(stored["identity"], dict) else {}
        differing = [key for key in {**there, **identity} if there.get(key) != identity.get(key)]
        if differing:
            details = "; ".join(f"{k}: {there.get(k)!r} there, {identity.get(k)!r} here" for k in sorted(differing))
            raise JournalError(
                f"The journal '{self.path}' belongs to another search ({details}). Resume with the settings it was "
                "begun with, or start in a new run folder."
            )
        # Rows that are not what was written: SQLite does not check what it reads, a search asks again.
        for table in ("evaluations", "requests"):
            rows = self._database.execute(f"SELECT rowid, * FROM {table}")
            damaged = [(number,) for number, *values, checksum in rows if checksum != _checksum(values)]
            if damaged:
                with self._database:
                    self._database.executemany(f"DELETE FROM {table} WHERE rowid = ?", damaged)
                what = f"{len(damaged)} of its {table} damaged: they are done again"
                logger.warning("the journal '%s' had %s", self.path, what)

    def _rescue(self) -> None:
        """Set a damaged file aside, and begin another one with every row of it that can still be read."""
        found: dict[str, dict[int, tuple[Any, ...]]] = {table: {} for table in _TABLES}
        for table, rows in found.items():
            for order in ("ASC", "DESC"):  # From both ends to where it is damaged.
                with suppress(sqlite3.Error):
                    for number, *values in self._database.execute(
                        f"SELECT rowid, * FROM {table} ORDER BY rowid {order}"
                    ):
                        rows[number] = tuple(values)
        self._database.close()
        numbered = (self.path.with_name(f"{self.path.name}.damaged-{number}") for number in itertools.count(1))
        aside = next(path for path in numbered if not path.exists())
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._database = _connect(self.path)
        with self._database:
            for table, rows in found.items():
                self._database.execute(f"CREATE TABLE {table} ({_TABLES[table]})")
                for _, values in sorted(rows.items()):
                    marks = ", ".join("?" * len(values))
                    self._database.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)
        count = len(found["evaluations"])
        logger.warning(
            "the journal '%s' was damaged: it now is %s, and %d evaluations of it are kept", self.path, aside, count
        )


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=30)
    database.text_factory = lambda text: text.decode(errors="replace")  # Its checksum tells that it is damaged.
    database.execute("PRAGMA journal_mode = WAL")
    return database


def _checksum(values: Sequence[Any]) -> int:
    return zlib.crc32(json.dumps(list(values), default=repr).encode())


def _row(key: str, draw: int) -> str:
    """Under which an evaluation of a plan is stored: the first one's row is the plan's."""
    return f"{key}#{draw}" if draw else key


def count_requests(path: Path) -> int:
    """Evaluations of the searcher that has asked for most, by a journal's file; 0 without one that can be read."""
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            return database.execute("SELECT COALESCE(MAX(number), 0) FROM requests").fetchone()[0]
    except sqlite3.DatabaseError:
        return 0  # What is wrong with it is said when it is opened.


def evaluation_to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain data; an accuracy that is not a number becomes null."""
    data = dataclasses.asdict(evaluation)
    for name in ("accuracy", "score"):
        data[name] = None if math.isnan(data[name]) else data[name]
    return data


def read_courses(path: Path) -> dict[str, list[Evaluation]]:
    """Every searcher's evaluations in the order in which it asked, by a journal's file, which is not written to.

    Raises:
        JournalError: there is none, or it cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as database:
            rows = database.execute(
                "SELECT searcher, record FROM requests JOIN evaluations USING (key) ORDER BY requests.rowid"
            )
            courses: dict[str, list[Evaluation]] = {}
            for searcher, record in rows:
                courses.setdefault(searcher, []).append(from_plain(Evaluation, json.loads(record)))
            return courses
    except (sqlite3.Error, ValueError, RecursionError) as error:
        raise JournalError(f"The journal '{path}' cannot be read: {error}") from error
