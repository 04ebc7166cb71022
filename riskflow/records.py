"""The bytes of a record: what is known about one entity, packed. Lossless and canonical: equal states are equal bytes.

    version | touched | ids: how many, then 10 bytes each (first entity only) | how many tiles each ring has | the tiles

*Touched* is the watermark, in days, that the entity's newest row stood at (riskflow/windows.py): who has not been
touched for long is dead. It stands in front, so that a sweep need not read on (stream/sweep.py).

A tile is its distance from the one before and its cells. A cell is a varint whose two low bits say what follows: 0 an
integer, 1 eight raw bytes, 3 hundredths, 2 one of: as the cell before; NaN; hundredths missed by a few last bits, as
sums of money are (how many bits, then the hundredths). Most cells of quiet entities need one to three bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]

VERSION = 3  # 3: when the entity was touched last; 2: the ids' content checks leave out what a row does not have
IDS = 32  # ids that an entity remembers, to know a duplicate
BASE, ROOM, LO, HI = range(4)  # columns of `place`
_BYTES_A_NUMBER = 10  # no varint and no cell is longer
_ID_BYTES = 10
_NAN_BITS = int(np.array([np.nan]).view(np.int64)[0])
_AS_BEFORE, _NAN = 2, 6
_MOST_OFF = 28  # so that NaN's number and this fit into one byte


def unpack_into(packed: Sequence[bytes], widths: I8, rows: I8, keeps_ids: bool) -> tuple[I8, F8, tuple[I8, I8, I8], I8]:
    """(place, data, ids, touched) of records with room for rows[slot, ring] more tiles each; see windows.States."""
    data, starts = _joined(packed)
    used, touched = np.zeros(rows.size, np.int64), np.zeros(len(packed), np.int64)
    _count_tiles(data, starts, len(widths), keeps_ids, used, touched)
    place = np.zeros((rows.size, 4), np.int64)
    place[:, ROOM] = used + rows.reshape(-1)
    sizes = place[:, ROOM] * np.tile(widths, len(packed))
    np.cumsum(sizes[:-1], out=place[1:, BASE])
    cells = np.empty(int(sizes.sum()) + 1)
    slots = len(packed) if keeps_ids else 0
    ids = np.zeros((slots, IDS), np.int64), np.zeros((slots, IDS), np.int64), np.zeros(slots, np.int64)
    _unpack(data, starts, widths, keeps_ids, place, cells, cells.view(np.int64), *ids)
    return place, cells, ids, touched


def pack_from(place: I8, data: F8, ids: tuple[I8, I8, I8], touched: I8, widths: I8, keeps_ids: bool) -> list[bytes]:
    """The packed records of all slots, in order."""
    slots = len(touched)
    used = (place[:, HI] - place[:, LO]).reshape(slots, len(widths)) * (widths * _BYTES_A_NUMBER)
    a_slot = 1 + _BYTES_A_NUMBER * (2 + len(widths)) + (_ID_BYTES * IDS if keeps_ids else 0)
    out, ends = np.empty(int(used.sum()) + slots * a_slot, np.uint8), np.empty(slots, np.int64)
    _pack(place, data, data.view(np.int64), *ids, touched, widths, keeps_ids, out, ends)
    bounds = [0, *ends.tolist()]
    whole = out[: bounds[-1]].tobytes()
    return [whole[a:b] for a, b in pairwise(bounds)]


def touched_days(packed: Sequence[bytes]) -> I8:
    """When the entities of these records were touched last, by the records' first bytes alone."""
    front = b"".join([record[1 : 1 + _BYTES_A_NUMBER].ljust(_BYTES_A_NUMBER, b"\0") for record in packed])
    found = np.frombuffer(front, np.uint8).reshape(-1, _BYTES_A_NUMBER).astype(np.int64)
    behind = np.zeros(found.shape, np.bool_)  # the number's last byte, the first below 128
    behind[:, 1:] = np.logical_or.accumulate(found < 128, axis=1)[:, :-1]
    days: I8 = (np.where(behind, 0, found & 127) << (7 * np.arange(_BYTES_A_NUMBER))).sum(axis=1)
    return days


def _joined(packed: Sequence[bytes]) -> tuple[U1, I8]:
    for record in packed:
        if record and record[0] != VERSION:
            raise ValueError(f"packed record of version {record[0]}, this code reads {VERSION}: run `riskflow rebuild`")
    starts = np.zeros(len(packed) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, packed), np.int64, len(packed)), out=starts[1:])
    return np.frombuffer(b"".join(packed) or b"\0", np.uint8), starts


# ---- numbers ---------------------------------------------------------------------------------------------------------


@njit(forceinline=True)
def _put_varint(out, at, value):  # type: ignore[no-untyped-def]
    v = np.uint64(value)
    while v >= np.uint64(128):
        out[at] = np.uint8((v & np.uint64(127)) | np.uint64(128))
        v >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(v)
    return at + 1


@njit(forceinline=True)
def _get_varint(data, at):  # type: ignore[no-untyped-def]
    b = np.uint64(data[at])
    at += 1
    v = b & np.uint64(127)
    shift = np.uint64(7)
    while b >= np.uint64(128):
        b = np.uint64(data[at])
        at += 1
        v |= (b & np.uint64(127)) << shift
        shift += np.uint64(7)
    return np.int64(v), at


@njit(forceinline=True)
def _put_raw(out, at, bits):  # type: ignore[no-untyped-def]
    v = np.uint64(bits)
    for j in range(8):
        out[at + j] = np.uint8((v >> np.uint64(8 * j)) & np.uint64(255))
    return at + 8


@njit(forceinline=True)
def _get_raw(data, at):  # type: ignore[no-untyped-def]
    v = np.uint64(0)
    for j in range(8):
        v |= np.uint64(data[at + j]) << np.uint64(8 * j)
    return np.int64(v), at + 8


@njit(forceinline=True)
def _zigzag(value):  # type: ignore[no-untyped-def]
    return (value << 1) ^ (value >> 63)


@njit(forceinline=True)
def _unzigzag(value):  # type: ignore[no-untyped-def]
    return (value >> 1) ^ -(value & 1)


@njit(forceinline=True)
def _put_cell(out, at, cells, bits, i, first):  # type: ignore[no-untyped-def]
    value = cells[i]
    if i > first and bits[i] == bits[i - 1]:
        return _put_varint(out, at, _AS_BEFORE)
    if 0.0 <= value < 1e15 and bits[i] >= 0:  # not -0.0
        whole = np.int64(value)
        if float(whole) == value:
            return _put_varint(out, at, whole << 2)
        hundredths = np.int64(value * 100.0 + 0.5)
        if hundredths / 100.0 == value:
            return _put_varint(out, at, hundredths << 2 | 3)
        off = _zigzag(bits[i] - np.float64(hundredths / 100.0).view(np.int64))
        if 0 < off <= _MOST_OFF:
            return _put_varint(out, _put_varint(out, at, _NAN + (off << 2)), hundredths)
    if bits[i] == _NAN_BITS:
        return _put_varint(out, at, _NAN)
    out[at] = 1
    return _put_raw(out, at + 1, bits[i])


@njit(forceinline=True)
def _get_cell(data, at, cells, bits, i):  # type: ignore[no-untyped-def]
    v, at = _get_varint(data, at)
    how = v & 3
    if how == 0:
        cells[i] = float(v >> 2)
    elif how == 1:
        bits[i], at = _get_raw(data, at)
    elif how == 3:
        cells[i] = (v >> 2) / 100.0
    elif v == _AS_BEFORE:
        bits[i] = bits[i - 1]
    elif v == _NAN:
        bits[i] = _NAN_BITS
    else:
        hundredths, at = _get_varint(data, at)
        cells[i] = hundredths / 100.0
        bits[i] += _unzigzag((v - _NAN) >> 2)
    return at


# ---- records ---------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _count_tiles(data, starts, rings, keeps_ids, used, touched):  # type: ignore[no-untyped-def]
    """First pass of unpacking: used[slot * rings + ring], and touched[slot]."""
    for e in range(starts.shape[0] - 1):
        at = starts[e]
        if at == starts[e + 1]:
            continue
        touched[e], at = _get_varint(data, at + 1)
        if keeps_ids:
            n, at = _get_varint(data, at)
            at += _ID_BYTES * min(n, IDS)
        for x in range(e * rings, (e + 1) * rings):
            used[x], at = _get_varint(data, at)


@njit(cache=True)
def _unpack(data, starts, widths, keeps_ids, place, cells, bits, ids, checks, n_ids):  # type: ignore[no-untyped-def]
    rings = widths.shape[0]
    for e in range(starts.shape[0] - 1):
        at = starts[e]
        if at == starts[e + 1]:
            continue
        _, at = _get_varint(data, at + 1)
        if keeps_ids:
            at = _get_ids(data, at, e, ids, checks, n_ids)
        for x in range(e * rings, (e + 1) * rings):
            place[x, HI], at = _get_varint(data, at)
        for r in range(rings):
            tile = np.int64(0)
            i = place[e * rings + r, BASE]
            for _ in range(place[e * rings + r, HI]):
                step, at = _get_varint(data, at)
                tile += _unzigzag(step)
                bits[i] = tile
                for k in range(i + 1, i + widths[r]):
                    at = _get_cell(data, at, cells, bits, k)
                i += widths[r]


@njit(cache=True)
def _pack(place, cells, bits, ids, checks, n_ids, touched, widths, keeps_ids, out, ends):  # type: ignore[no-untyped-def]
    rings = widths.shape[0]
    at = 0
    for e in range(ends.shape[0]):
        out[at] = VERSION
        at = _put_varint(out, at + 1, touched[e])
        if keeps_ids:
            at = _put_ids(out, at, e, ids, checks, n_ids)
        for x in range(e * rings, (e + 1) * rings):
            at = _put_varint(out, at, place[x, HI] - place[x, LO])
        for r in range(rings):
            at = _put_ring(out, at, place, e * rings + r, widths[r], cells, bits)
        ends[e] = at


@njit(forceinline=True)
def _put_ring(out, at, place, x, width, cells, bits):  # type: ignore[no-untyped-def]
    before = np.int64(0)
    first = place[x, BASE] + place[x, LO] * width
    for i in range(first, place[x, BASE] + place[x, HI] * width, width):
        at = _put_varint(out, at, _zigzag(bits[i] - before))
        before = bits[i]
        for k in range(i + 1, i + width):
            at = _put_cell(out, at, cells, bits, k, i + 1)
    return at


@njit(forceinline=True)
def _get_ids(data, at, e, ids, checks, n_ids):  # type: ignore[no-untyped-def]
    n, at = _get_varint(data, at)
    n_ids[e] = n
    for j in range(max(0, n - IDS), n):
        ids[e, j % IDS], at = _get_raw(data, at)
        checks[e, j % IDS] = np.int64(data[at]) | np.int64(data[at + 1]) << 8
        at += 2
    return at


@njit(forceinline=True)
def _put_ids(out, at, e, ids, checks, n_ids):  # type: ignore[no-untyped-def]
    """Only n modulo 32 matters for what comes next, so a long life does not grow the number."""
    n = n_ids[e]
    if n >= 2 * IDS:
        n = IDS + n % IDS
    at = _put_varint(out, at, n)
    for j in range(max(0, n - IDS), n):
        at = _put_raw(out, at, ids[e, j % IDS])
        out[at] = np.uint8(checks[e, j % IDS] & 255)
        out[at + 1] = np.uint8(checks[e, j % IDS] >> 8 & 255)
        at += 2
    return at
