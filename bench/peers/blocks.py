"""The job in blocks, for the bare loops: compiled windows over arrays, one block for each partition of the other key.

Nothing is kept: state is in memory only, and a block that was sent twice counts twice. It is a bound, not a system.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numba
import numpy as np
import orjson
from job import DAY, HOUR, Model

# Each window: its length, its tile, the first cell of its ring. Windows of one tile size share the ring of the longest.
WINDOWS = np.array([[HOUR, 300_000, 0], [DAY, HOUR, 13], [7 * DAY, HOUR, 13], [30 * DAY, DAY, 182]])
RINGS = np.array([[300_000, 0, 13], [HOUR, 13, 169], [DAY, 182, 31]])  # tile, first cell, cells
CELLS = 213


@numba.njit(cache=True)
def observe(slots, at_ms, amount, number, count, total, known):
    """As job.observe, for many events in order; a late event never takes the place of a newer tile."""
    for i in range(len(slots)):
        s = slots[i]
        for w in range(len(WINDOWS)):
            length, tile_ms, base = WINDOWS[w]
            first, now = (at_ms[i] - length) // tile_ms, at_ms[i] // tile_ms
            cells = RINGS[0 if w == 0 else 2 if w == 3 else 1, 2]
            events, money = 0.0, 0.0
            for tile in range(first, now + 1):
                c = base + tile % cells
                if number[s, c] == tile:
                    events += count[s, c]
                    money += total[s, c]
            known[i, 2 * w], known[i, 2 * w + 1] = events, money
        for r in range(len(RINGS)):
            tile_ms, base, cells = RINGS[r]
            tile = at_ms[i] // tile_ms
            c = base + tile % cells
            if number[s, c] < tile:
                number[s, c], count[s, c], total[s, c] = tile, 0.0, 0.0
            if number[s, c] == tile:
                count[s, c] += 1.0
                total[s, c] += amount[i]


class Windows:
    """The windows of all customers, or of all terminals."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._make_room(1024)
        self.observe(["warm-up"], np.zeros(1, np.int64), np.zeros(1))  # compiles
        self._slots.clear()
        self._make_room(1024)

    def observe(self, ids: Sequence[str], at_ms: np.ndarray, amount: np.ndarray) -> np.ndarray:
        """Eight numbers for each event."""
        slots = self._slots
        mine = np.fromiter((slots.setdefault(name, len(slots)) for name in ids), np.int64, len(ids))
        while len(slots) > len(self._number):
            self._make_room(2 * len(self._number), self._number, self._count, self._total)
        known = np.empty((len(ids), 8), np.float32)
        observe(mine, at_ms, amount, self._number, self._count, self._total, known)
        return known

    def _make_room(self, rows: int, *before: np.ndarray) -> None:
        self._number = np.full((rows, CELLS), -1, np.int64)
        self._count, self._total = np.zeros((rows, CELLS)), np.zeros((rows, CELLS))
        for new, old in zip((self._number, self._count, self._total), before, strict=False):
            new[: len(old)] = old


class Job:
    """Both steps. What travels between them is a block: JSON of the names, then arrays."""

    def __init__(self, model: str, partitions: int) -> None:
        self._model, self._partitions = Model(model), partitions
        self._customers, self._terminals = Windows(), Windows()

    def customers(self, values: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """(partition, block) out of events of one partition."""
        events = [orjson.loads(value) for value in values]
        at_ms = np.array([e["occurred_at"] for e in events], np.int64)
        amount = np.array([e["amount"] for e in events])
        known = self._customers.observe([e["customer_id"] for e in events], at_ms, amount)
        where = np.array([zlib.crc32(e["terminal_id"].encode()) % self._partitions for e in events])
        for partition in np.unique(where).tolist():
            rows = np.flatnonzero(where == partition)
            names = orjson.dumps([[events[i]["event_id"], events[i]["terminal_id"]] for i in rows.tolist()])
            parts = (len(names).to_bytes(4, "big"), names, at_ms[rows], amount[rows], known[rows])
            yield partition, b"".join(p if isinstance(p, bytes) else p.tobytes() for p in parts)

    def terminals(self, block: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, score) of each row of a block."""
        end = 4 + int.from_bytes(block[:4], "big")
        ids, terminals = zip(*orjson.loads(block[4:end]), strict=True)
        n = len(ids)
        at_ms = np.frombuffer(block, np.int64, n, end)
        amount = np.frombuffer(block, np.float64, n, end + 8 * n)
        known = np.frombuffer(block, np.float32, 8 * n, end + 16 * n).reshape(n, 8)
        rows = np.column_stack([amount.astype(np.float32), known, self._terminals.observe(terminals, at_ms, amount)])
        for name, score in zip(ids, self._model.scores(rows).tolist(), strict=True):
            yield name.encode(), b'{"event_id":"%s","score":%.9g}' % (name.encode(), score)
