"""The windows of job.py over arrays, compiled: a ring of tiles for each tile size. What the bare loops use."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

HOUR, DAY = 3_600_000, 86_400_000

# Tile size, first cell and number of cells of each ring; windows of one tile size share the ring of the longest.
RINGS = np.array([[300_000, 0, 13], [HOUR, 13, 169], [DAY, 182, 31]])
WINDOWS = np.array([[HOUR, 0], [DAY, 1], [7 * DAY, 1], [30 * DAY, 2]])  # length, ring
CELLS = 213


@numba.njit
def observe(slots, at_ms, amount, number, count, total, known):
    """As job.observe, for many events in order; a late event never takes the place of a newer tile."""
    for i in range(len(slots)):
        s = slots[i]
        for w in range(len(WINDOWS)):
            tile_ms, base, cells = RINGS[WINDOWS[w, 1]]
            first, now = (at_ms[i] - WINDOWS[w, 0]) // tile_ms, at_ms[i] // tile_ms
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
