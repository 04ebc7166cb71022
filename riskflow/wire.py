"""The bytes of a block: columns as they travel between stages and stand in bundles.

    RF2 | length of the header (4 bytes, little) | header (JSON) | the columns' buffers, one after another

Text is two buffers: the lengths of its values (u4) and their bytes. The header names rows, columns, the bytes of each
text column, and whatever the sender wants to say (`meta`). Many blocks are cut from one table, and read into one, by
slicing whole buffers: a small block costs microseconds, not a numpy call for each of its columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
import numpy as np

from riskflow.columns import Column, Columns, Text, n_rows

MAGIC = b"RF2 "
LENGTH = "<u4"
TEXT = "text"


class Header(msgspec.Struct, rename={"rows": "n", "texts": "s", "columns": "c", "meta": "m"}):
    """What a block says of itself; `columns` stays undecoded, because many blocks have the same ones."""

    rows: int
    texts: list[int]
    columns: msgspec.Raw
    meta: dict[str, Any]


_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_columns = msgspec.json.Decoder(list[tuple[str, str]]).decode


def encode(columns: Mapping[str, Column], meta: Mapping[str, Any]) -> bytes:
    """A block of all rows; `meta` is small JSON."""
    return encode_parts(columns, [(0, n_rows(columns))], [meta])[0]


def encode_parts(
    columns: Mapping[str, Column], bounds: Sequence[tuple[int, int]], metas: Sequence[Mapping[str, Any]]
) -> list[bytes]:
    """A block for each of the row ranges [first, end)."""
    described = msgspec.Raw(_encode([(name, _kind(column)) for name, column in columns.items()]))
    buffers = [_TextBytes(c) if isinstance(c, Text) else _Fixed(c) for c in columns.values()]
    texts = [b for b in buffers if isinstance(b, _TextBytes)]
    out = []
    for (first, end), meta in zip(bounds, metas, strict=True):
        header = _encode(Header(end - first, [t.size(first, end) for t in texts], described, dict(meta)))
        parts = [MAGIC, len(header).to_bytes(4, "little"), header]
        for buffer in buffers:
            buffer.add(first, end, parts)
        out.append(b"".join(parts))
    return out


def decode(block: bytes | bytearray) -> tuple[Columns, dict[str, Any]]:
    """Columns and meta of a block's bytes; raises ValueError for anything else."""
    header, at = read_header(block)
    return _joined([(block, header, at)]), header.meta


def decode_all(blocks: Sequence[bytes]) -> Iterator[tuple[Columns, list[Header]]]:
    """The rows of blocks, one after another: a table for each run of blocks with the same columns."""
    read = [(block, *read_header(block)) for block in blocks]
    for _, run in groupby(read, key=lambda r: bytes(r[1].columns)):
        found = list(run)
        yield _joined(found), [header for _, header, _ in found]


def read_header(block: bytes | bytearray) -> tuple[Header, int]:
    """The header, and where the buffers begin; raises ValueError when these are not the bytes of a block."""
    if block[:4] != MAGIC:
        raise ValueError(f"not a block: it starts with {bytes(block[:8])!r}")
    at = 8 + int.from_bytes(block[4:8], "little")
    try:
        header = _decode_header(bytes(block[8:at]))
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a block: its header cannot be read: {error}") from None
    return header, at


def columns_of(header: Header) -> list[tuple[str, str]]:
    """(name, kind) of each column."""
    return _decode_columns(header.columns)


class _Fixed:
    """Bytes of a column whose values have one size."""

    def __init__(self, column: Any) -> None:
        self._bytes, self._item = np.ascontiguousarray(column).tobytes(), column.dtype.itemsize

    def add(self, first: int, end: int, parts: list[bytes]) -> None:
        parts.append(self._bytes[first * self._item : end * self._item])


class _TextBytes:
    """Bytes of a text column."""

    def __init__(self, column: Text) -> None:
        self._offsets = column.offsets
        self._lengths, self._data = np.diff(column.offsets).astype(LENGTH).tobytes(), column.data.tobytes()

    def size(self, first: int, end: int) -> int:
        return int(self._offsets[end] - self._offsets[first])

    def add(self, first: int, end: int, parts: list[bytes]) -> None:
        parts += (self._lengths[4 * first : 4 * end], self._data[self._offsets[first] : self._offsets[end]])


def _kind(column: Column) -> str:
    return TEXT if isinstance(column, Text) else str(column.dtype.str)


def _joined(blocks: Sequence[tuple[bytes | bytearray, Header, int]]) -> Columns:
    """One table of blocks with the same columns. Its arrays are writable, like columns made here: for read-only ones
    every loop would be compiled again, while events wait."""
    described = columns_of(blocks[0][1])
    sizes = [4 if kind == TEXT else np.dtype(kind).itemsize for _, kind in described]
    parts: list[list[memoryview]] = [[] for _ in described]
    texts: list[list[memoryview]] = [[] for _ in described]
    for block, header, at in blocks:
        view, size_of = memoryview(block), iter(header.texts)
        for i, (_, kind) in enumerate(described):
            end = at + sizes[i] * header.rows
            parts[i].append(view[at:end])
            if kind == TEXT:
                at, end = end, end + next(size_of)
                texts[i].append(view[at:end])
            at = end
        if at != len(block):
            raise ValueError(f"a block of {len(block)} bytes where its header says {at}")
    columns: Columns = {}
    for (name, kind), fixed, text in zip(described, parts, texts, strict=True):
        values = np.frombuffer(bytearray().join(fixed), LENGTH if kind == TEXT else kind)
        columns[name] = _text(values, text) if kind == TEXT else values
    return columns


def _text(lengths: Any, data: list[memoryview]) -> Text:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Text(np.frombuffer(bytearray().join(data), np.uint8), offsets)
