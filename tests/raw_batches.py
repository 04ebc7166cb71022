"""Record batches as no client of ours would make them: byte by byte, sent to a real broker or changed on its disk."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Any

from aiokafka.record.util import calc_crc32c, encode_varint

from riskflow.record_batches import CHECKED_FROM, HEADER

PRODUCE = 0
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CRC_AT, ATTRIBUTES_AT = 17, 21


def record(offset: int, value: bytes, header: bytes | None = None) -> bytes:
    """One record; `header` is the name of a header, in any bytes."""
    out = bytearray(b"\x00")
    parts: list[Any] = [0, offset, -1, len(value), value, 0 if header is None else 1]
    parts += [] if header is None else [len(header), header, 0]
    for part in parts:
        encode_varint(part, out.append) if isinstance(part, int) else out.extend(part)
    length = bytearray()
    encode_varint(len(out), length.append)
    return bytes(length + out)


def batch(body: bytes, records: int, codec: int = 0) -> bytes:
    """A batch around records that are compressed already."""
    now = int(time.time() * 1000)
    after = struct.pack(">hiqqqhii", codec, records - 1, now, now, -1, -1, -1, records) + body
    head = struct.pack(">qiibI", 0, HEADER.size - 12 + len(body), -1, 2, calc_crc32c(after))
    return head + after


def send(kafka: str, topic: str, partition: int, raw: bytes) -> int:
    """Produces a batch as it stands; the offset of its first record. Raises when the broker refuses it."""
    host, _, port = kafka.partition(":")
    name = topic.encode()
    body = struct.pack(">hhih", PRODUCE, 7, 1, -1) + struct.pack(">hhi", -1, -1, 30_000)
    body += struct.pack(">ih", 1, len(name)) + name + struct.pack(">iii", 1, partition, len(raw)) + raw
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rwb") as stream:
        stream.write(struct.pack(">i", len(body)) + body)
        stream.flush()
        answer = stream.read(*struct.unpack(">i", stream.read(4)))
    _, error, offset = struct.unpack_from(">ihq", answer, 4 + 4 + 2 + len(name) + 4)
    if error:
        raise OSError(f"the broker refuses the batch: {error}")
    return int(offset)


def damage(home: Path, topic: str, partition: int, marker: bytes, *, codec: int | None = None) -> None:
    """Changes the batch that holds `marker` on the broker's disk: another codec with a right checksum, or one bit."""
    path = next(home.rglob(f"{topic}-{partition}/00000000000000000000.log"))
    log = path.read_bytes()
    at = _start(log, marker)
    raw = bytearray(log[at : at + 12 + HEADER.unpack_from(log, at)[1]])
    if codec is None:
        raw[raw.index(marker)] ^= 1
    else:
        raw[ATTRIBUTES_AT + 1] = raw[ATTRIBUTES_AT + 1] & ~7 | codec
        struct.pack_into(">I", raw, CRC_AT, calc_crc32c(bytes(raw[CHECKED_FROM:])))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(raw)


def _start(log: bytes, marker: bytes) -> int:
    at = 0
    while True:
        end = at + 12 + HEADER.unpack_from(log, at)[1]
        if marker in log[at:end]:
            return at
        at = end
