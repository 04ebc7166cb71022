"""Scores on disk: one SQLite file for each use case, with the positions up to which the topic has been read.

Scores and positions change in one transaction, so a restart goes on exactly where the file stands. Of several scores of
one event the one with the highest epoch counts; between equal epochs the one that was read last.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from riskflow.errors import NotReady

FORMAT = 1
WRITER_KIB, READER_KIB = 256 * 1024, 16 * 1024  # pages of the index stay in memory for some millions of events
BUSY_S = 10.0
DELETED_AT_ONCE = 5_000

_TABLES = """
CREATE TABLE IF NOT EXISTS scores (
    event_id BLOB NOT NULL UNIQUE, value BLOB NOT NULL, epoch INTEGER NOT NULL, decided_at_ms INTEGER, worker TEXT,
    recorded_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS scores_by_time ON scores (recorded_ms);
CREATE TABLE IF NOT EXISTS positions (
    partition INTEGER PRIMARY KEY, topic_id TEXT NOT NULL, next_offset INTEGER NOT NULL
);
"""
_WRITE = """
INSERT INTO scores (event_id, value, epoch, decided_at_ms, worker, recorded_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id) DO UPDATE SET value = excluded.value, epoch = excluded.epoch,
    decided_at_ms = excluded.decided_at_ms, worker = excluded.worker, recorded_ms = excluded.recorded_ms
WHERE excluded.epoch >= scores.epoch
"""
_MOVE = "INSERT OR REPLACE INTO positions (partition, topic_id, next_offset) VALUES (?, ?, ?)"
_FIND = "SELECT event_id, value, epoch, decided_at_ms, worker, recorded_ms FROM scores WHERE event_id = ?"
_OLDEST = "SELECT rowid FROM scores WHERE recorded_ms < ? ORDER BY recorded_ms LIMIT ?"

Row = tuple[bytes, bytes, int, int | None, str | None, int]


@dataclass(frozen=True)
class Stored:
    """One score as the topic had it: its JSON, and what stood in the record's headers."""

    event_id: bytes
    value: bytes
    epoch: int
    decided_at_ms: int | None
    worker: str | None
    recorded_ms: int

    @property
    def row(self) -> Row:
        return (self.event_id, self.value, self.epoch, self.decided_at_ms, self.worker, self.recorded_ms)


class Store:
    """The scores of one use case. One process at a time has it; its reader writes while requests are answered."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = _locked(path)
        self._writer, self._reader = _connect(path, WRITER_KIB), _connect(path, READER_KIB)
        self._reading = threading.Lock()
        _make_tables(self._writer)

    def close(self) -> None:
        self._writer.close()
        with self._reading:
            self._reader.close()
        self._lock_file.close()

    def write(self, rows: Iterable[Row], positions: Mapping[int, int], topic_id: str) -> None:
        """Takes scores and moves positions, both or neither."""
        with self._writer:
            self._writer.executemany(_WRITE, rows)
            self._writer.executemany(_MOVE, [(p, topic_id, offset) for p, offset in positions.items()])

    def positions(self, topic_id: str) -> dict[int, int]:
        """Partition -> next offset to read, of the topic with this id; those of a deleted topic do not count."""
        with closing(self._writer.execute("SELECT * FROM positions WHERE topic_id = ?", (topic_id,))) as rows:
            return {partition: offset for partition, _, offset in rows}

    def delete_before(self, recorded_ms: int) -> int:
        """Deletes some scores that are older; returns how many, 0 when none is left."""
        with self._writer:
            query = f"DELETE FROM scores WHERE rowid IN ({_OLDEST})"
            return self._writer.execute(query, (recorded_ms, DELETED_AT_ONCE)).rowcount

    def find(self, event_id: str) -> Stored | None:
        """The effective score of an event; safe from any thread."""
        with self._reading:
            row = self._reader.execute(_FIND, (event_id.encode(errors="replace"),)).fetchone()
        return Stored(*row) if row else None


def check_free(path: Path) -> None:
    """Raises NotReady while another process has the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _locked(path).close()


def _connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", f"cache_size = -{cache_kib}"):
        connection.execute(f"PRAGMA {setting}").close()
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    """Makes the tables; those of another format are dropped, since the topic still has what they held."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, FORMAT):
        connection.executescript("DROP TABLE scores; DROP TABLE positions;")
    connection.executescript(f"{_TABLES} PRAGMA user_version = {FORMAT};")


def _locked(path: Path) -> IO[str]:
    file = path.with_suffix(".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise NotReady(
            f"{path} is in use by another `riskflow serve`. Stop that one, or give this one a RISKFLOW_HOME of its own."
        ) from None
    return file
