"""The compiled kernel: what is known about entities, folded from their rows in order.

For each row: read the windows of its entity, run the marks, write the row into the tiles. A window w at event time t
holds what arrived before the row and lies in the tiles floor((t - w) / s) to floor(t / s) of size s:

    windows up to   10 min   12 h    7 d    beyond
    tile size s     10 s     5 min   1 h    1 d

A *ring* is the tiles of one size that one feed writes for one entity: sorted, only those in use, each with the cells of
its aggregates. A ring keeps the tiles newer than its newest minus its length. A late row lands in its own tile; one
older than the ring is counted and not written.

A *record* is the packed rings of one entity (and, at the first entity, the ring of its last 32 ids). Packing is lossless
and canonical: equal states are equal bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riskflow import aggregates
from riskflow.aggregates import add_cells, merge_cells, result_of, zero_cells

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
TILES_MS = ((10 * MINUTE, 10_000), (12 * HOUR, 5 * MINUTE), (7 * DAY, HOUR), (90 * DAY, DAY))
SHORTEST_MS, LONGEST_MS = MINUTE, 90 * DAY
IDS = 32  # ids an entity remembers, to know a duplicate
VERSION = 1  # of the packed record
NEW, DUPLICATE, CONFLICT = 0, 1, 2

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]


def tile_ms(window_ms: int) -> int:
    """The tile size of a window; the one table above."""
    return next(tile for longest, tile in TILES_MS if window_ms <= longest)


class Layout(NamedTuple):
    """The rings, spans and results of one entity, as flat arrays for the kernel.

    Ring r is written by rows of kind ring_kind[r]; its write operations are op_*[ring_op[r]:ring_op[r + 1]].
    Spans of a ring (its windows, shortest first) are span_*[ring_span[r]:ring_span[r + 1]]; the results of span s are
    res_*[span_res[s]:span_res[s + 1]].
    """

    ring_kind: I8
    ring_tile_ms: I8
    ring_length: I8  # tiles
    ring_cells: I8
    ring_op: I8
    ring_span: I8
    op_kind: I8
    op_cell: I8
    op_column: I8  # row of `observed`
    span_ms: I8
    span_res: I8
    res_kind: I8
    res_cell: I8
    res_column: I8  # row of `reads`
    keeps_ids: bool


@dataclass
class States:
    """Records of the entities of one batch, unpacked. Slot e, ring r stands at index e * rings + r of the ring arrays."""

    first: I8  # where the ring's tiles begin in `tiles`
    room: I8  # how many fit
    lo: I8  # tiles in use: [lo, hi), relative to first
    hi: I8
    cell_first: I8
    tiles: I8
    cells: F8
    ids: I8  # (slots, 32)
    checks: I8  # (slots, 32) content of the event with that id
    n_ids: I8  # ids seen in all, modulo nothing below 32; the next place is n % 32
    late: I8 = field(default_factory=lambda: np.zeros(1, np.int64))


# ---- packing ---------------------------------------------------------------------------------------------------------
# A cell is a varint whose two low bits say what follows: 0 an integer, 1 eight raw bytes, 2 as the cell before (0) or
# NaN (1), 3 hundredths. Most cells of quiet entities need one to three bytes.


@njit(cache=True)
def _put_varint(out, at, value):  # type: ignore[no-untyped-def]
    v = np.uint64(value)
    while v >= np.uint64(128):
        out[at] = np.uint8((v & np.uint64(127)) | np.uint64(128))
        v >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(v)
    return at + 1


@njit(cache=True)
def _get_varint(data, at):  # type: ignore[no-untyped-def]
    v = np.uint64(0)
    shift = np.uint64(0)
    while True:
        b = np.uint64(data[at])
        at += 1
        v |= (b & np.uint64(127)) << shift
        if b < np.uint64(128):
            return np.int64(v), at
        shift += np.uint64(7)


@njit(cache=True)
def _put_raw(out, at, bits):  # type: ignore[no-untyped-def]
    v = np.uint64(bits)
    for j in range(8):
        out[at + j] = np.uint8((v >> np.uint64(8 * j)) & np.uint64(255))
    return at + 8


@njit(cache=True)
def _get_raw(data, at):  # type: ignore[no-untyped-def]
    v = np.uint64(0)
    for j in range(8):
        v |= np.uint64(data[at + j]) << np.uint64(8 * j)
    return np.int64(v), at + 8


@njit(cache=True)
def _put_cell(out, at, cells, bits, i, first):  # type: ignore[no-untyped-def]
    value = cells[i]
    if i > first and bits[i] == bits[i - 1]:
        return _put_varint(out, at, 2)
    if bits[i] == aggregates.NAN_BITS:
        return _put_varint(out, at, 6)
    if 0.0 <= value < 1e12 and not (value == 0.0 and bits[i] != 0):
        whole = np.int64(value)
        if float(whole) == value:
            return _put_varint(out, at, whole << 2)
        hundredths = np.int64(value * 100.0 + 0.5)
        if hundredths / 100.0 == value:
            return _put_varint(out, at, hundredths << 2 | 3)
    at = _put_varint(out, at, 1)
    return _put_raw(out, at, bits[i])


@njit(cache=True)
def _get_cell(data, at, cells, bits, i):  # type: ignore[no-untyped-def]
    v, at = _get_varint(data, at)
    how = v & 3
    if how == 0:
        cells[i] = float(v >> 2)
    elif how == 1:
        bits[i], at = _get_raw(data, at)
    elif how == 3:
        cells[i] = (v >> 2) / 100.0
    elif v == 2:
        bits[i] = bits[i - 1]
    else:
        bits[i] = aggregates.NAN_BITS
    return at


@njit(cache=True)
def _count_tiles(layout, data, starts, rooms):  # type: ignore[no-untyped-def]
    """First pass of unpacking: rooms[e, r] = tiles in use. Each ring says its length in bytes, so it can be passed over."""
    rings = layout.ring_kind.shape[0]
    for e in range(starts.shape[0] - 1):
        at = starts[e]
        if at == starts[e + 1]:
            continue
        at += 1
        if layout.keeps_ids:
            n, at = _get_varint(data, at)
            at += 10 * min(n, IDS)
        for r in range(rings):
            n, at = _get_varint(data, at)
            size, at = _get_varint(data, at)
            rooms[e * rings + r] = n
            at += size


@njit(cache=True)
def _unpack(layout, data, starts, first, cell_first, hi, tiles, cells, bits, ids, checks, n_ids):  # type: ignore[no-untyped-def]
    rings = layout.ring_kind.shape[0]
    for e in range(starts.shape[0] - 1):
        at = starts[e]
        if at == starts[e + 1]:
            continue
        at += 1
        if layout.keeps_ids:
            n, at = _get_varint(data, at)
            n_ids[e] = n
            for j in range(max(0, n - IDS), n):
                ids[e, j % IDS], at = _get_raw(data, at)
                checks[e, j % IDS] = np.int64(data[at]) | np.int64(data[at + 1]) << 8
                at += 2
        for r in range(rings):
            x = e * rings + r
            n, at = _get_varint(data, at)
            _, at = _get_varint(data, at)
            hi[x] = n
            tile = np.int64(0)
            for j in range(n):
                step, at = _get_varint(data, at)
                tile = step - (np.int64(1) << 40) if j == 0 else tile + step
                tiles[first[x] + j] = tile
                c = cell_first[x] + j * layout.ring_cells[r]
                for k in range(layout.ring_cells[r]):
                    at = _get_cell(data, at, cells, bits, c + k)


@njit(cache=True)
def _pack_one(layout, e, first, cell_first, lo, hi, tiles, cells, bits, ids, checks, n_ids, out, at, scratch):  # type: ignore[no-untyped-def]
    rings = layout.ring_kind.shape[0]
    out[at] = VERSION
    at += 1
    if layout.keeps_ids:
        # Only n modulo 32 matters for what comes next, so a long life does not grow the number.
        n = n_ids[e]
        if n >= 2 * IDS:
            n = IDS + n % IDS
        at = _put_varint(out, at, n)
        for j in range(max(0, n - IDS), n):
            at = _put_raw(out, at, ids[e, j % IDS])
            out[at] = np.uint8(checks[e, j % IDS] & 255)
            out[at + 1] = np.uint8(checks[e, j % IDS] >> 8 & 255)
            at += 2
    for r in range(rings):
        x = e * rings + r
        size = 0
        for j in range(lo[x], hi[x]):
            tile = tiles[first[x] + j]
            step = tile + (np.int64(1) << 40) if j == lo[x] else tile - tiles[first[x] + j - 1]
            size = _put_varint(scratch, size, step)
            c = cell_first[x] + j * layout.ring_cells[r]
            for k in range(layout.ring_cells[r]):
                size = _put_cell(scratch, size, cells, bits, c + k, c)
        at = _put_varint(out, at, hi[x] - lo[x])
        at = _put_varint(out, at, size)
        out[at : at + size] = scratch[:size]
        at += size
    return at


@njit(cache=True)
def _pack(layout, first, cell_first, lo, hi, tiles, cells, bits, ids, checks, n_ids, out, ends, scratch):  # type: ignore[no-untyped-def]
    at = 0
    for e in range(ends.shape[0]):
        at = _pack_one(layout, e, first, cell_first, lo, hi, tiles, cells, bits, ids, checks, n_ids, out, at, scratch)
        ends[e] = at


def unpack(layout: Layout, records: Sequence[bytes | None], rows: I8) -> States:
    """States of records, with room for rows[e, ring] more rows each (shape: slots x rings)."""
    n, rings = len(records), len(layout.ring_kind)
    packed = [r or b"" for r in records]
    data = np.frombuffer(b"".join(packed) or b"\0", np.uint8)
    starts = np.concatenate([[0], np.cumsum(np.fromiter(map(len, packed), np.int64, n))]).astype(np.int64)
    _check_versions(packed)
    used = np.zeros(n * rings, np.int64)
    _count_tiles(layout, data, starts, used)
    room = np.minimum(used + rows.reshape(-1), 2 * np.tile(layout.ring_length, n) + used)
    first = np.concatenate([[0], np.cumsum(room)])[:-1].astype(np.int64)
    cell_room = room * np.tile(layout.ring_cells, n)
    cell_first = np.concatenate([[0], np.cumsum(cell_room)])[:-1].astype(np.int64)
    cells = np.zeros(int(cell_room.sum()) + 1)
    slots = n if layout.keeps_ids else 0
    states = States(
        first, room, np.zeros_like(used), np.zeros_like(used), cell_first, np.zeros(int(room.sum()) + 1, np.int64),
        cells, np.zeros((slots, IDS), np.int64), np.zeros((slots, IDS), np.int64), np.zeros(slots, np.int64),
    )  # fmt: skip
    _unpack(
        layout, data, starts, first, cell_first, states.hi, states.tiles, cells, cells.view(np.int64),
        states.ids, states.checks, states.n_ids,
    )  # fmt: skip
    return states


def pack(layout: Layout, states: States) -> list[bytes]:
    """The packed records of all slots, in order."""
    rings = len(layout.ring_kind)
    slots = len(states.hi) // rings
    used = (states.hi - states.lo).reshape(slots, rings)
    bytes_a_tile = 10 + 10 * layout.ring_cells
    size = int((used * bytes_a_tile).sum()) + slots * (12 + 20 * rings + (10 + 10 * IDS if layout.keeps_ids else 0))
    largest = int((used * bytes_a_tile).max(initial=0)) + 16
    out, ends = np.empty(size, np.uint8), np.empty(slots, np.int64)
    _pack(
        layout, states.first, states.cell_first, states.lo, states.hi, states.tiles, states.cells,
        states.cells.view(np.int64), states.ids, states.checks, states.n_ids, out, ends, np.empty(largest, np.uint8),
    )  # fmt: skip
    whole = out.tobytes()
    bounds = [0, *ends.tolist()]
    return [whole[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def _check_versions(packed: Sequence[bytes]) -> None:
    for record in packed:
        if record and record[0] != VERSION:
            raise ValueError(f"packed record of version {record[0]}, this code reads {VERSION}: run `riskflow rebuild`")


# ---- one row ---------------------------------------------------------------------------------------------------------


@njit(cache=True, error_model="numpy")
def read_windows(layout, e, at_ms, first, cell_first, lo, hi, tiles, cells, bits, acc, acc_bits, reads, i):  # type: ignore[no-untyped-def]
    """Writes all window features of slot e at at_ms into reads[:, i]. Newest tile first, each window ends where it ends."""
    rings = layout.ring_kind.shape[0]
    for r in range(rings):
        spans = layout.ring_span[r], layout.ring_span[r + 1]
        if spans[0] == spans[1]:
            continue
        x = e * rings + r
        size = layout.ring_tile_ms[r]
        ops = layout.ring_op[r], layout.ring_op[r + 1]
        for o in range(ops[0], ops[1]):
            zero_cells(layout.op_kind[o], acc, layout.op_cell[o])
        j = hi[x] - 1
        newest = at_ms // size
        while j >= lo[x] and tiles[first[x] + j] > newest:
            j -= 1
        for s in range(spans[0], spans[1]):
            oldest = (at_ms - layout.span_ms[s]) // size
            while j >= lo[x] and tiles[first[x] + j] >= oldest:
                c = cell_first[x] + j * layout.ring_cells[r]
                for o in range(ops[0], ops[1]):
                    k = layout.op_cell[o]
                    merge_cells(layout.op_kind[o], acc, acc_bits, k, cells, bits, c + k)
                j -= 1
            for f in range(layout.span_res[s], layout.span_res[s + 1]):
                reads[layout.res_column[f], i] = result_of(
                    layout.res_kind[f], acc, acc_bits, layout.res_cell[f], float(at_ms)
                )


@njit(cache=True)
def _place(e_ring, tile, length, width, first, room, cell_first, lo, hi, tiles, cells):  # type: ignore[no-untyped-def]
    """The place of a tile in its ring, made when it is new (second result); -1 when it is older than the ring."""
    x = e_ring
    base = first[x]
    if hi[x] > lo[x] and tile <= tiles[base + hi[x] - 1] - length:
        return -1, False
    j = hi[x]
    while j > lo[x] and tiles[base + j - 1] > tile:
        j -= 1
    if j > lo[x] and tiles[base + j - 1] == tile:
        return j - 1, False
    newest = max(tile, tiles[base + hi[x] - 1]) if hi[x] > lo[x] else tile
    while lo[x] < hi[x] and tiles[base + lo[x]] <= newest - length:
        lo[x] += 1
    j = max(j, lo[x])
    c = cell_first[x]
    if hi[x] == room[x]:  # move what is in use to the front
        n = hi[x] - lo[x]
        for k in range(n):
            tiles[base + k] = tiles[base + lo[x] + k]
        for k in range(n * width):
            cells[c + k] = cells[c + lo[x] * width + k]
        j -= lo[x]
        lo[x], hi[x] = 0, n
    for k in range(hi[x] - 1, j - 1, -1):
        tiles[base + k + 1] = tiles[base + k]
    for k in range(hi[x] * width - 1, j * width - 1, -1):
        cells[c + k + width] = cells[c + k]
    tiles[base + j] = tile
    hi[x] += 1
    return j, True


@njit(cache=True, error_model="numpy")
def write_row(
    layout, e, kind, at_ms, first, room, cell_first, lo, hi, tiles, cells, bits, observed, observed_bits, i, late
):  # type: ignore[no-untyped-def]
    """Adds row i to every ring that its kind writes."""
    rings = layout.ring_kind.shape[0]
    for r in range(rings):
        if layout.ring_kind[r] != kind:
            continue
        x = e * rings + r
        width = layout.ring_cells[r]
        j, fresh = _place(
            x, at_ms // layout.ring_tile_ms[r], layout.ring_length[r], width,
            first, room, cell_first, lo, hi, tiles, cells,
        )  # fmt: skip
        if j < 0:
            late[0] += 1
            continue
        c = cell_first[x] + j * width
        for o in range(layout.ring_op[r], layout.ring_op[r + 1]):
            k = c + layout.op_cell[o]
            if fresh:
                zero_cells(layout.op_kind[o], cells, k)
            column = layout.op_column[o]
            add_cells(layout.op_kind[o], cells, bits, k, observed[column, i], observed_bits[column, i], float(at_ms))


@njit(cache=True)
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


# ---- the loop, made for one plan so that its marks are compiled into it ----------------------------------------------

_LOOP = '''\
"""Made by riskflow.windows for one entity of one plan; safe to delete."""
import numpy as np
from numba import njit
from riskflow.windows import check_id, read_windows, write_row
{imports}

@njit(cache=True, error_model="numpy")
def observe(layout, kind, at_ms, slot, reads_kind, event, content, observed, observed_bits, reads, verdict,
            first, room, lo, hi, cell_first, tiles, cells, bits, ids, checks, n_ids, late, acc, acc_bits):
    for i in range(slot.shape[0]):
        e = slot[i]
        if layout.keeps_ids:
            verdict[i] = check_id(ids, checks, n_ids, e, event[i], content[i])
            if verdict[i] != 0:
                continue
        if reads_kind[kind[i]]:
            read_windows(layout, e, at_ms[i], first, cell_first, lo, hi, tiles, cells, bits, acc, acc_bits, reads, i)
{marks}
        write_row(layout, e, kind[i], at_ms[i], first, room, cell_first, lo, hi, tiles, cells, bits,
                  observed, observed_bits, i, late)
'''


@dataclass(frozen=True)
class MarkCall:
    """One mark in the loop: the compiled function's source, its inputs as expressions, the row of `observed` it fills."""

    kind: int
    function: str
    source: str
    inputs: tuple[str, ...]
    column: int


def make_loop(marks: Sequence[MarkCall], folder: Path) -> Callable[..., None]:
    """The compiled loop with these marks in it. Its file is named by its content, so the cache can never be stale."""
    imports = "\n\n".join(dict.fromkeys(m.source for m in marks))
    calls = "\n".join(
        f"        if kind[i] == {m.kind}:\n            observed[{m.column}, i] = {m.function}({', '.join(m.inputs)})"
        for m in marks
    )
    text = _LOOP.format(imports=imports, marks=calls)
    kernel = "".join(Path(m.__file__ or "").read_text() for m in (aggregates, sys.modules[__name__]))
    name = "observe_" + hashlib.sha256((text + kernel).encode()).hexdigest()[:16]
    loop: Callable[..., None] = _module(name, text, folder).observe
    return loop


def _module(name: str, text: str, folder: Path) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    path = folder / f"{name}.py"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{hashlib.sha256(str(id(text)).encode()).hexdigest()[:8]}.tmp")
        unfinished.write_text(text)
        unfinished.replace(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # a path that ends in .py always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Observed:
    """What the kernel said: reads (features x rows), observed with marks filled in, verdicts, late rows, new records."""

    reads: F8
    observed: F8
    verdicts: NDArray[np.int8]
    late: int
    records: list[bytes]


def observe(
    loop: Callable[..., None],
    layout: Layout,
    n_reads: int,
    kinds_read: NDArray[np.bool_],
    *,
    kind: I8,
    at_ms: I8,
    slot: I8,
    event: I8,
    content: I8,
    observed: F8,
    records: Sequence[bytes | None],
) -> Observed:
    """Folds rows (in order) into the records of their entities.

    kind, at_ms, slot, event (hash of kind and id), content (hash): one for each row. observed: columns x rows, row-major.
    records: one for each slot, None for an entity never seen. kinds_read: which kinds need their windows read.
    """
    rings = len(layout.ring_kind)
    per_kind: Any = layout.ring_kind[None, :] == np.arange(len(kinds_read))[:, None]
    rows = np.zeros((len(records), len(kinds_read)), np.int64)
    np.add.at(rows, (slot, kind), 1)
    states = unpack(layout, records, (rows @ per_kind.astype(np.int64)).reshape(len(records), rings))
    reads = np.full((n_reads, len(slot)), np.nan)
    verdicts = np.zeros(len(slot), np.int8)
    acc = np.zeros(int(layout.ring_cells.max(initial=0)) + 1)
    loop(
        layout, kind, at_ms, slot, kinds_read, event, content, observed, observed.view(np.int64), reads, verdicts,
        states.first, states.room, states.lo, states.hi, states.cell_first, states.tiles, states.cells,
        states.cells.view(np.int64), states.ids, states.checks, states.n_ids, states.late, acc, acc.view(np.int64),
    )  # fmt: skip
    return Observed(reads, observed, verdicts, int(states.late[0]), pack(layout, states))
