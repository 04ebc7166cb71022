"""Kafka's record batches between a fetch and its reader: expanded within bounds; one that cannot be read is shown.

A client expands whatever a batch holds, and stays for ever before one that it cannot read. Here batches are expanded
to at most EXPANDED_BYTES before the client reads their records. A batch that is larger or broken becomes one record in
its place, whose value is `Unreadable`: readers go on behind it, or stop there and say what it is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cramjam

# Producers bound a batch before they compress it, usually at 1 MB; a message of its own may be larger.
EXPANDED_BYTES = 64 * 1024 * 1024
GUESSES = (EXPANDED_BYTES // 64, EXPANDED_BYTES // 8, EXPANDED_BYTES)
TOO_LARGE, UNREADABLE = "too_large", "unreadable"

LENGTH = struct.Struct(">qi")  # first offset, bytes that follow
# ... leader epoch, magic, crc, attributes, last offset - first, first time, last time, producer's state, records
HEADER = struct.Struct(">qiibIhiqqqhii")
MAGIC_AT, CHECKED_FROM = 16, 21
CODEC, BROKER_TIME = 0x07, 0x08
XERIAL, XERIAL_HEADER = b"\x82SNAPPY\x00", 16


class TooLarge(Exception):
    """A batch expands to more than EXPANDED_BYTES."""


class Unreadable(bytes):
    """A batch's own bytes in place of its messages `first` to `last`; `kind` and `why` are those of a rejection."""

    first: int
    last: int
    kind: str
    why: str

    @classmethod
    def of(cls, raw: bytes, first: int, last: int, error: Exception) -> Unreadable:
        """The batch in `raw`, which could not be read from the offset `first` on because of this error."""
        made = cls(raw)
        made.first, made.last = first, last
        large = isinstance(error, TooLarge)
        made.kind = TOO_LARGE if large else UNREADABLE
        what = f"is larger than {EXPANDED_BYTES >> 20} MiB when expanded" if large else f"cannot be read ({error!r})"
        made.why = f"the record batch with offsets {first} to {last} {what}"
        return made


def first_offset(record: Any) -> int:
    """The first offset that a record stands for; one in place of a batch stands at the batch's last offset."""
    return int(record.value.first if isinstance(record.value, Unreadable) else record.offset)


def stands_for(record: Any, offset: int) -> bool:
    """Whether a record is, or holds the place of, the message at this offset."""
    return first_offset(record) <= offset <= int(record.offset)


@dataclass(frozen=True, slots=True)
class Record:
    """A record as clients' batches give it, for the ones that they cannot give."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: Any
    headers: tuple[()] = ()
    checksum: None = None
    size_in_bytes: int = 0


class Batch:
    """One batch: a client's own in all but its iteration, which never raises."""

    def __init__(self, raw: bytes, read: Callable[[bytes], Any], crc: Callable[[bytes], int]) -> None:
        self._raw, self._read, self._crc = raw, read, crc
        self._client = read(raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def __next__(self) -> Any:
        return next(self._client)  # clients look into control batches like this; those are never compressed

    def validate_crc(self) -> bool:
        """True: iteration looks at the checksum, and shows what is wrong."""
        return True

    def __iter__(self) -> Iterator[Any]:
        done: int = self._client.base_offset - 1
        try:
            for record in self._records():
                if record.offset > done:
                    yield record
                    done = record.offset
        except MemoryError:
            raise  # says nothing about the batch
        except Exception as error:
            yield self._unreadable(done + 1, error)

    def _records(self) -> Iterator[Any]:
        if self._crc(self._raw[CHECKED_FROM:]) != self._client.crc & 0xFFFFFFFF:
            raise ValueError("its checksum is wrong: damaged on the broker's disk or on the way")
        plain = expanded(self._raw)
        try:
            yield from self._read(plain)
        except Exception:  # the broker takes any bytes as a header's name, clients in Python only UTF-8
            yield from bare_records(plain)

    def _unreadable(self, first: int, error: Exception) -> Record:
        last: int = self._client.next_offset - 1
        value = Unreadable.of(self._raw, first, last, error)
        return Record(last, self._client.max_timestamp, self._client.timestamp_type, None, value)


class Batches:
    """What a fetch brought from one partition; stands in for a client's `MemoryRecords`."""

    read: Callable[[bytes], Any]  # the client's reader of one batch
    crc: Callable[[bytes], int]
    batch: type[Batch] = Batch

    def __init__(self, data: bytes) -> None:
        self._data, self._at = memoryview(data), 0

    def size_in_bytes(self) -> int:
        """Bytes of the whole fetch."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether another whole batch follows; a fetch may end within one."""
        return self._end() is not None

    def next_batch(self) -> Any:
        """The next batch, None after the last one."""
        end = self._end()
        if end is None:
            return None
        raw, self._at = bytes(self._data[self._at : end]), end
        if len(raw) < HEADER.size or raw[MAGIC_AT] < 2:
            return self.read(raw)  # of a Kafka before 0.11
        return self.batch(raw, self.read, self.crc)

    def _end(self) -> int | None:
        if len(self._data) - self._at < LENGTH.size:
            return None
        end = self._at + LENGTH.size + int(LENGTH.unpack_from(self._data, self._at)[1])
        return end if end <= len(self._data) else None


def expanded(raw: bytes) -> bytes:
    """The same batch without compression (its checksum stays that of `raw`); raises TooLarge, and what codecs raise."""
    first, _, *middle, attributes, delta, t0, t1, producer, epoch, sequence, records = HEADER.unpack_from(raw)
    codec = attributes & CODEC
    if not codec:
        return raw
    if codec not in CODECS:
        raise ValueError(f"its compression codec {codec} is unknown")
    body = CODECS[codec](raw[HEADER.size :])
    length = HEADER.size - LENGTH.size + len(body)
    rest = (attributes & ~CODEC, delta, t0, t1, producer, epoch, sequence, records)
    return HEADER.pack(first, length, *middle, *rest) + body


def _gzip(data: bytes) -> bytes:
    """The one member that producers write; what follows it is ignored, as the broker and clients in Java do."""
    member = zlib.decompressobj(31)
    out = member.decompress(data, EXPANDED_BYTES + 1)
    if len(out) > EXPANDED_BYTES:
        raise TooLarge
    if not member.eof:
        raise ValueError("its gzip data is cut off")
    return out


def _snappy(data: bytes) -> bytes:
    """One raw block, or blocks behind the header of the Java library, of whichever version."""
    blocks = list(_xerial_blocks(data)) if data.startswith(XERIAL) else [data]
    if sum(cramjam.snappy.decompress_raw_len(b) for b in blocks) > EXPANDED_BYTES:
        raise TooLarge
    return b"".join(bytes(cramjam.snappy.decompress_raw(b)) for b in blocks)


def _xerial_blocks(data: bytes) -> Iterator[bytes]:
    at = XERIAL_HEADER
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : end]
        at = end


def _into(codec: Any) -> Callable[[bytes], bytes]:
    """Expands into buffers of growing size: neither codec tells the size beforehand in a way that could be trusted."""

    def expand(data: bytes) -> bytes:
        for size in GUESSES:
            out = bytearray(size)
            try:
                return bytes(memoryview(out)[: codec.decompress_into(data, out)])
            except cramjam.DecompressionError as error:
                if "whole buffer" not in str(error):
                    raise
        raise TooLarge

    return expand


CODECS: dict[int, Callable[[bytes], bytes]] = {1: _gzip, 2: _snappy, 3: _into(cramjam.lz4), 4: _into(cramjam.zstd)}


def bare_records(plain: bytes) -> Iterator[Record]:
    """The records of a batch without compression, without their headers; raises ValueError for anything else."""
    first, _, _, _, _, attributes, _, t0, t1, *_, records = HEADER.unpack_from(plain)
    by_broker = bool(attributes & BROKER_TIME)
    at = HEADER.size
    for _ in range(records):
        length, at = _varint(plain, at)
        end = at + length
        later, at = _varint(plain, at + 1)
        offset, at = _varint(plain, at)
        key, at = _bytes(plain, at)
        value, at = _bytes(plain, at)
        if not at <= end <= len(plain):
            raise ValueError(f"its record at {first + offset} goes beyond its end")
        yield Record(first + offset, t1 if by_broker else t0 + later, int(by_broker), key, value, size_in_bytes=length)
        at = end


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(data, at)
    return (None, at) if length < 0 else (data[at : at + length], at + length)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number and where it ends."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise ValueError("it ends within a number")
