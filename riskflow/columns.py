"""Columns: the one form in which rows travel and are calculated, and the one place for hashes and reductions.

A column is a numpy array of one value for each row, or `Text` for strings. Reductions over columns go through
`row_sum`: it adds in column order, so a row's result does not depend on how many rows stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from riskflow.hashing import combine, hash_text, number_texts

I8 = NDArray[np.int64]
F8 = NDArray[np.float64]
U1 = NDArray[np.uint8]


@njit(cache=True)
def _take_text(data, offsets, rows, new_offsets, out):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        a, b = offsets[rows[i]], offsets[rows[i] + 1]
        out[new_offsets[i] : new_offsets[i + 1]] = data[a:b]


@dataclass(frozen=True)
class Text:
    """A column of UTF-8 strings: row i is data[offsets[i]:offsets[i + 1]]. Missing is the single byte 0xFF."""

    data: U1
    offsets: I8  # n + 1

    MISSING = b"\xff"  # cannot stand in UTF-8, so no id is mistaken for it

    @classmethod
    def of(cls, values: Iterable[bytes]) -> Text:
        values = list(values)
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
        # Writable, like texts from a block or from `take`: for read-only bytes every loop would be compiled once more.
        return cls(np.frombuffer(bytearray().join(values), np.uint8), offsets)

    @classmethod
    def of_strings(cls, values: Iterable[str | None]) -> Text:
        return cls.of(cls.MISSING if v is None else v.encode() for v in values)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def values(self) -> list[bytes]:
        whole, bounds = self.data.tobytes(), self.offsets.tolist()
        return [whole[a:b] for a, b in pairwise(bounds)]

    def strings(self) -> list[str | None]:
        return [None if v == self.MISSING else v.decode() for v in self.values()]

    def json(self) -> list[bytes]:
        """Each as a JSON string; nothing may be missing."""
        plain = (self.data >= 0x20) & (self.data != ord('"')) & (self.data != ord("\\"))
        if plain.all():
            return [b'"%b"' % value for value in self.values()]
        return [msgspec.json.encode(value.decode()) for value in self.values()]

    def missing(self) -> NDArray[np.bool_]:
        lengths = np.diff(self.offsets)
        if not len(self.data):
            return np.zeros(len(self), np.bool_)
        first: U1 = self.data[np.minimum(self.offsets[:-1], len(self.data) - 1)]
        missing: NDArray[np.bool_] = (lengths == 1) & (first == 0xFF)
        return missing

    def take(self, rows: I8) -> Text:
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.diff(self.offsets)[rows], out=offsets[1:])
        out = np.empty(int(offsets[-1]), np.uint8)
        _take_text(self.data, self.offsets, rows, offsets, out)
        return Text(out, offsets)

    def hashes(self, seed: int = 0) -> I8:
        """64-bit hashes (FNV-1a with murmur3's finish), the same on every machine."""
        return self._plain_hashes if seed == 0 else self._hashed(seed)

    def numbered(self) -> tuple[I8, I8]:
        """Where each distinct text stands first, in order of appearance; and each row's number among them, or -1."""
        numbers, firsts = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        table = np.full(1 << (2 * len(self)).bit_length(), -1, np.int64)
        n = number_texts(self.data, self.offsets, self.hashes(), table, numbers, firsts)
        return firsts[:n], numbers

    @cached_property
    def _plain_hashes(self) -> I8:
        out = self._hashed(0)
        out.flags.writeable = False
        return out

    def _hashed(self, seed: int) -> I8:
        out = np.empty(len(self), np.int64)
        hash_text(self.data, self.offsets, seed, out)
        return out


Column = NDArray[Any] | Text
Columns = dict[str, Column]


def n_rows(columns: Mapping[str, Column]) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def take(columns: Mapping[str, Column], rows: I8) -> Columns:
    """The named rows of every column."""
    return {name: c.take(rows) if isinstance(c, Text) else c[rows] for name, c in columns.items()}


def concat(blocks: Sequence[Mapping[str, Column]]) -> Columns:
    """Blocks with the same columns, one after another."""
    if len(blocks) == 1:
        return dict(blocks[0])
    return {name: _concat_column([b[name] for b in blocks]) for name in blocks[0]}


def _concat_column(parts: list[Any]) -> Column:
    if not isinstance(parts[0], Text):
        joined: NDArray[Any] = np.concatenate(parts)
        return joined
    starts = np.cumsum([0, *(len(p.data) for p in parts)])
    offsets = [p.offsets[:-1] + s for p, s in zip(parts, starts, strict=False)]
    return Text(np.concatenate([p.data for p in parts]), np.concatenate([*offsets, starts[-1:]]).astype(np.int64))


def combined_hash(parts: Sequence[Column]) -> I8:
    """One 64-bit hash for each row over several columns, by their bits."""
    out = np.zeros(n_rows({"": parts[0]}), np.int64)
    for part in parts:
        more = part.hashes() if isinstance(part, Text) else _bits(part)
        combine(out, more)
    return out


def _bits(column: NDArray[Any]) -> I8:
    if column.dtype.kind == "f":
        return np.ascontiguousarray(column, np.float64).view(np.int64)
    return np.ascontiguousarray(column, np.int64)


def partition_of(ids: Text, partitions: int) -> I8:
    """The partition of each id on an internal topic."""
    return (ids.hashes().view(np.uint64) % np.uint64(partitions)).astype(np.int64)


def row_sum(parts: Sequence[F8]) -> F8:
    """The sum of columns, added in order."""
    total = np.zeros(len(parts[0]))
    for part in parts:
        total = total + part
    return total
