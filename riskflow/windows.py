"""The compiled kernel: what is known about entities, folded from their rows in order.

For each row: read the windows of its entity, run the marks, write the row into the tiles. A window w at event time t
holds what arrived before the row and lies in the tiles floor((t - w) / s) to floor(t / s) of size s:

    windows up to   10 min   12 h    7 d    beyond
    tile size s     10 s     5 min   1 h    1 d

A *ring* is the tiles of one size that one feed writes for one entity: sorted, only those in use, each with the cells of
its aggregates. A ring keeps the tiles newer than its newest minus its length. A late row lands in its own tile; one
older than the ring is counted and not written.

The *watermark* of a stage's partition is the newest day (of the largest tile) that any of its kept rows has shown by
now. A record keeps the watermark that its entity's newest row stood at; if the watermark before a row is further on
than the time to live, the record equals none. So deleting it then, earlier or later changes no result
(docs/decisions/0020).

The inner functions are not cached by numba: they are compiled into the loop, whose file is named by all sources. What
numba caches on its own it would not compile again when a function in another file changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riskflow.records import BASE, HI, IDS, LO, ROOM, VERSION, pack_from, touched_days, unpack_into

__all__ = [
    "IDS",
    "VERSION",
    "Layout",
    "Observed",
    "Rows",
    "States",
    "dead",
    "fold",
    "observe",
    "pack",
    "unpack",
]

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
TILES_MS = ((10 * MINUTE, 10_000), (12 * HOUR, 5 * MINUTE), (7 * DAY, HOUR), (90 * DAY, DAY))
SHORTEST_MS, LONGEST_MS = MINUTE, 90 * DAY
NEW, DUPLICATE, CONFLICT = 0, 1, 2
GRACE_DAYS = 30  # beyond the longest ring: so much later than others a row may come and still meet what is known
CHUNK = 1000  # rows; not a power of two, whose strides fall into the same cache lines

R_KIND, R_TILE_MS, R_LENGTH, R_WIDTH = range(4)  # columns of Layout.rings

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]


def tile_ms(window_ms: int) -> int:
    """The tile size of a window; the one table above."""
    return next(tile for longest, tile in TILES_MS if window_ms <= longest)


def ring_length(window_ms: int) -> int:
    """How many tiles a ring needs for its longest window: it begins anywhere in a tile and may end in another."""
    return -(-window_ms // tile_ms(window_ms)) + 1


class Layout(NamedTuple):
    """The rings, spans and results of one entity, as tables for the kernel.

    rings    kind of the rows that write it | tile ms | length in tiles | width (1 + cells) | its ops | its spans
    ops      kind of cells | first cell (the tile's number is cell 0) | row of `observed` | spans that need it
    spans    the ring's windows, shortest first: whole tiles | rest in ms | its results
    results  kind of result | first cell | column of the reads
    """

    rings: I8
    ops: I8
    spans: I8
    results: I8
    keeps_ids: bool

    @property
    def widths(self) -> I8:
        return self.rings[:, R_WIDTH]

    @property
    def live_days(self) -> int:
        """The time to live: how far the watermark goes on until an entity that does not come back is dead."""
        longest_ms = int((self.rings[:, R_TILE_MS] * self.rings[:, R_LENGTH]).max(initial=0))
        return -(-longest_ms // DAY) + GRACE_DAYS


@dataclass
class States:
    """Records of the entities of one batch, unpacked. Ring r of slot e is row e * rings + r of `place`."""

    place: I8  # where the ring stands in `data`, how many tiles fit, and those in use: [LO, HI)
    data: F8  # tile after tile: its number (as int64), then its cells
    ids: tuple[I8, I8, I8]  # (slots, 32) ids; content checks; how many ids were seen, the next place is n % 32
    touched: I8  # the watermark that the slot's newest row stood at


def unpack(layout: Layout, records: Sequence[bytes | None], rows: I8) -> States:
    """States of records, with room for rows[slot, ring] more rows each."""
    room = np.minimum(rows, 2 * layout.rings[:, R_LENGTH])
    return States(*unpack_into([r or b"" for r in records], layout.widths, room, layout.keeps_ids))


def pack(layout: Layout, states: States) -> list[bytes]:
    """The packed records of all slots, in order."""
    return pack_from(states.place, states.data, states.ids, states.touched, layout.widths, layout.keeps_ids)


def dead(layout: Layout, records: Sequence[bytes], watermark: int) -> NDArray[np.bool_]:
    """Of each record whether it equals none, for every row that comes behind this watermark."""
    found: NDArray[np.bool_] = watermark - touched_days(records) > layout.live_days
    return found


# ---- one row ---------------------------------------------------------------------------------------------------------


@njit(forceinline=True)
def first_tile(place, x, width):  # type: ignore[no-untyped-def]
    """Where the oldest tile of ring x stands."""
    return place[x, BASE] + place[x, LO] * width


@njit(forceinline=True)
def last_tile(place, x, width):  # type: ignore[no-untyped-def]
    """Where the newest tile of ring x stands; before first_tile when there is none."""
    return place[x, BASE] + (place[x, HI] - 1) * width


@njit(forceinline=True)
def tile_for(place, x, tile, length, width, data, bits):  # type: ignore[no-untyped-def]
    """Where a tile stands in ring x, made when it is new (second result); -1 when it is older than the ring."""
    at = last_tile(place, x, width)
    if at >= first_tile(place, x, width) and bits[at] == tile:
        return at, False  # the usual case, compiled into the loop
    return _place_tile(place, x, tile, length, width, bits)


@njit
def _place_tile(place, x, tile, length, width, bits):  # type: ignore[no-untyped-def]
    base, lo, hi = place[x, BASE], place[x, LO], place[x, HI]
    newest = bits[base + (hi - 1) * width] if hi > lo else tile
    if tile <= newest - length:
        return -1, False
    j = hi
    while j > lo and bits[base + (j - 1) * width] > tile:
        j -= 1
    if j > lo and bits[base + (j - 1) * width] == tile:
        return base + (j - 1) * width, False
    newest = max(newest, tile)
    while lo < hi and bits[base + lo * width] <= newest - length:
        lo += 1
    j = max(j, lo)
    if hi == place[x, ROOM]:  # move what is in use to the front
        for k in range((hi - lo) * width):
            bits[base + k] = bits[base + lo * width + k]
        j, hi, lo = j - lo, hi - lo, 0
    at = base + j * width
    for k in range(base + hi * width - 1, at - 1, -1):
        bits[k + width] = bits[k]
    bits[at] = tile
    place[x, LO], place[x, HI] = lo, hi + 1
    return at, True


@njit(error_model="numpy", forceinline=True)
def check_id(ids, checks, n_ids, e, event, content):  # type: ignore[no-untyped-def]
    """NEW (and remembered), DUPLICATE, or CONFLICT: the same id with other content."""
    n = n_ids[e]
    for j in range(min(n, IDS)):
        if ids[e, j] == event:
            return DUPLICATE if checks[e, j] == content & 0xFFFF else CONFLICT
    ids[e, n % IDS] = event
    checks[e, n % IDS] = content & 0xFFFF
    n_ids[e] = n + 1
    return NEW


@njit(forceinline=True)
def forget(e, rings, place, n_ids):  # type: ignore[no-untyped-def]
    """Slot e as if nothing had ever been known."""
    for x in range(e * rings, (e + 1) * rings):
        place[x, LO], place[x, HI] = 0, 0
    if e < n_ids.shape[0]:
        n_ids[e] = 0


# ---- a block ---------------------------------------------------------------------------------------------------------


@dataclass
class Observed:
    """What the kernel said: reads (features x rows), observed with marks filled in, verdicts, in how many rings
    a row was too late, and each partition's watermark after the rows."""

    reads: F8
    observed: F8
    verdicts: NDArray[np.int8]
    late: int
    watermarks: I8


@dataclass(frozen=True)
class Rows:
    """Rows for the kernel, in order. kinds_read: which kinds need their windows read."""

    kinds_read: NDArray[np.bool_]
    kind: I8
    at_ms: I8
    slot: I8  # which of the records
    event: I8  # hash of kind and id
    content: I8  # hash of all that the row says
    observed: F8  # columns x rows
    part: I8  # which of the partitions
    watermarks: I8  # of each partition, in days, before these rows


def observe(
    loop: Callable[..., int], layout: Layout, n_reads: int, rows: Rows, records: Sequence[bytes | None]
) -> tuple[Observed, list[bytes]]:
    """Folds rows into the records of their entities (None: never seen); returns what it saw and the new records."""
    kinds = len(rows.kinds_read)
    counts = np.bincount(rows.slot * kinds + rows.kind, minlength=len(records) * kinds).reshape(len(records), kinds)
    states = unpack(layout, records, counts[:, layout.rings[:, R_KIND]])
    seen = fold(loop, layout, n_reads, rows, states)
    return seen, pack(layout, states)


def fold(loop: Callable[..., int], layout: Layout, n_reads: int, rows: Rows, states: States) -> Observed:
    """The kernel alone: folds rows into unpacked states."""
    n, late = len(rows.slot), 0
    reads, verdicts, watermarks = np.empty((n_reads, n)), np.zeros(n, np.int8), rows.watermarks.copy()
    chunk, acc = np.empty((min(n, CHUNK), n_reads)), np.zeros(int(layout.widths.max(initial=1)))
    fixed = (
        rows.kind, rows.at_ms, rows.slot, rows.kinds_read, rows.event, rows.content, rows.observed,
        rows.observed.view(np.int64), chunk, verdicts, states.place, states.data, states.data.view(np.int64),
        *states.ids, states.touched, rows.part, watermarks, acc, acc.view(np.int64),
    )  # fmt: skip
    for begin in range(
        0, n, CHUNK
    ):  # the kernel writes row by row what is needed column by column: turned in the cache
        end = min(n, begin + CHUNK)
        chunk.fill(np.nan)
        late += loop(*fixed, begin, end)
        reads[:, begin:end] = chunk[: end - begin].T
    return Observed(reads, rows.observed, verdicts, late, watermarks)
