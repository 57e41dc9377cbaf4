"""Keeps every evaluation of a search on disk, so that nothing is evaluated twice and a killed search loses nothing.

One SQLite file in the run folder. `evaluations` holds the results by plan; `requests` holds who asked for which
plan in which order, so that each searcher's course can be drawn although they share results.
"""

import dataclasses
import json
import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from autoprune.cost.cache import report_from_json
from autoprune.errors import JournalError
from autoprune.records import Evaluation

FORMAT = "autoprune.journal"
VERSION = 2


class Journal:
    """Evaluations of one model on one target.

    Args:
        path: the SQLite file; made when missing.
        identity: everything that a result depends on besides the plan: fingerprints of model, weights and data,
            target, settings. A journal with another identity is refused.

    Raises:
        JournalError: the file is corrupt, of another version, or belongs to another search.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        try:
            self._database = sqlite3.connect(self.path, timeout=30)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._prepare(json.loads(json.dumps(identity)))
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"'{self.path}' is not a usable journal: {error}. Move it away to start anew."
            ) from error

    def find(self, key: str, draw: int = 0) -> Evaluation | None:
        """The evaluation of the plan with this key by this draw, if there is one."""
        row = self._database.execute("SELECT record FROM evaluations WHERE key = ?", (_row(key, draw),)).fetchone()
        return evaluation_from_json(json.loads(row[0])) if row else None

    def add(self, evaluation: Evaluation, draw: int = 0) -> None:
        """Store an evaluation; it is on disk when this returns."""
        record = json.dumps(evaluation_to_json(evaluation))
        with self._database:
            row = _row(evaluation.key, draw)
            self._database.execute("INSERT OR REPLACE INTO evaluations VALUES (?, ?)", (row, record))

    def add_request(self, searcher: str, number: int, key: str) -> None:
        """Note that a searcher's evaluation of this number, from 1, was of the plan with this key."""
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?)", (searcher, number, key))

    def course(self, searcher: str) -> list[Evaluation]:
        """A searcher's evaluations in the order in which it asked; repeats included."""
        rows = self._database.execute(
            "SELECT record FROM requests JOIN evaluations USING (key) WHERE searcher = ? ORDER BY number",
            (searcher,),
        )
        return [evaluation_from_json(json.loads(record)) for (record,) in rows]

    def searchers(self) -> list[str]:
        """Everyone who asked, in order of first request."""
        rows = self._database.execute("SELECT searcher FROM requests GROUP BY searcher ORDER BY MIN(rowid)")
        return [name for (name,) in rows]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _prepare(self, identity: Mapping[str, Any]) -> None:
        with self._database:
            for table in (
                "meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
                "evaluations (key TEXT PRIMARY KEY, record TEXT NOT NULL)",
                "requests (searcher TEXT, number INTEGER, key TEXT NOT NULL, PRIMARY KEY (searcher, number))",
            ):
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            meta = {"format": FORMAT, "version": VERSION, "identity": identity}
            for key, value in meta.items():
                self._database.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
        rows = self._database.execute("SELECT key, value FROM meta")
        stored = {key: json.loads(value) for key, value in rows}
        if stored.get("format") != FORMAT or stored.get("version") != VERSION:
            raise JournalError(f"'{self.path}' is not a journal of version {VERSION}. Move it away to start anew.")
        there = stored["identity"]
        differing = [key for key in {**there, **identity} if there.get(key) != identity.get(key)]
        if differing:
            details = "; ".join(f"{k}: {there.get(k)!r} there, {identity.get(k)!r} here" for k in sorted(differing))
            raise JournalError(
                f"The journal '{self.path}' belongs to another search ({details}). Resume with the settings it was "
                "begun with, or start in a new run folder."
            )


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


def evaluation_from_json(data: Mapping[str, Any]) -> Evaluation:
    """The inverse of `evaluation_to_json`."""
    cost = data["cost"]
    if cost is not None:
        cost = report_from_json(cost)
    numbers = {name: math.nan if data[name] is None else data[name] for name in ("accuracy", "score")}
    return Evaluation(**{**data, "cost": cost, "dropped": tuple(data.get("dropped", ())), **numbers})
