"""Record batches: every codec expands to what was compressed, and what cannot be read is one record in its place."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from typing import Any

import cramjam
import pytest

from batch.read_log import Fetched as BatchFetched
from batch.read_log import Whole
from riskflow import record_batches
from riskflow.errors import EventRejected
from riskflow.events import Decoder
from riskflow.record_batches import TOO_LARGE, UNREADABLE, Batches, Unreadable, first_offset, stands_for
from stream.fetcher import Fetched as StreamFetched
from tests import support
from tests.raw_batches import GZIP, LZ4, SNAPPY, ZSTD, batch, record

VALUES = [b"one", b"", b"three" * 1000]
BODY = b"".join(record(i, v) for i, v in enumerate(VALUES))


def xerial(data: bytes, version: int) -> bytes:
    """Snappy as Java's library frames it, in blocks of 1,000 bytes."""
    parts = [bytes(cramjam.snappy.compress_raw(data[i : i + 1000])) for i in range(0, len(data), 1000)]
    head = b"\x82SNAPPY\x00" + struct.pack(">ii", version, 1)
    return head + b"".join(struct.pack(">i", len(p)) + p for p in parts)


COMPRESSED = {
    "none": (0, BODY),
    "gzip": (GZIP, gzip.compress(BODY)),
    "gzip and something behind it": (GZIP, gzip.compress(BODY) + b"trailing"),
    "snappy": (SNAPPY, bytes(cramjam.snappy.compress_raw(BODY))),
    "snappy of Java": (SNAPPY, xerial(BODY, 1)),
    "snappy of another Java": (SNAPPY, xerial(BODY, 2)),
    "lz4": (LZ4, bytes(cramjam.lz4.compress(BODY))),
    "zstd": (ZSTD, bytes(cramjam.zstd.compress(BODY))),
    "zstd in two frames": (ZSTD, bytes(cramjam.zstd.compress(BODY[:9])) + bytes(cramjam.zstd.compress(BODY[9:]))),
}
BOMBS: dict[str, tuple[int, Callable[[bytes], Any]]] = {
    "gzip": (GZIP, gzip.compress),
    "snappy": (SNAPPY, cramjam.snappy.compress_raw),
    "lz4": (LZ4, cramjam.lz4.compress),
    "zstd": (ZSTD, cramjam.zstd.compress),
}


class ByBatch(BatchFetched):
    """As batch reads logs: a batch at once."""

    batch = Whole


@pytest.fixture(params=[StreamFetched, BatchFetched, ByBatch], ids=["aiokafka", "kafka-python", "by batch"])
def fetched(request: pytest.FixtureRequest) -> type[Batches]:
    """The stream's client and batch's: both must find the same messages."""
    return request.param  # type: ignore[no-any-return]


def read(fetched: type[Batches], *raw: bytes) -> list[Any]:
    """All records of batches that follow each other from offset 10 on, as a fetch holds them."""
    data, offset = b"", 10
    for one in raw:
        data += struct.pack(">q", offset) + one[8:]
        offset += struct.unpack_from(">i", one, 57)[0]
    batches, found = fetched(data), []
    while batches.has_next():
        for one in batches.next_batch():
            found += one.value if isinstance(one.value, list) else [one]
    return found


@pytest.mark.parametrize(("codec", "body"), COMPRESSED.values(), ids=COMPRESSED)
def test_every_codec_is_expanded_as_the_broker_would(fetched: type[Batches], codec: int, body: bytes) -> None:
    found = read(fetched, batch(body, 3, codec), batch(record(0, b"next"), 1))
    assert [(r.offset, r.value) for r in found] == [*zip((10, 11, 12), VALUES, strict=True), (13, b"next")]


def test_a_header_with_a_name_in_other_bytes_changes_nothing(fetched: type[Batches]) -> None:
    body = record(0, b"first") + record(1, b"second", header=b"caf\xe9") + record(2, b"third")
    plain, strange = read(fetched, batch(BODY, 3)), read(fetched, batch(body, 3))
    assert [(r.offset, r.value) for r in strange] == [(10, b"first"), (11, b"second"), (12, b"third")]
    assert abs(strange[1].timestamp - plain[1].timestamp) < 60_000
    assert {r.timestamp_type for r in strange} == {r.timestamp_type for r in plain}


@pytest.mark.parametrize(("codec", "compress"), BOMBS.values(), ids=BOMBS)
def test_a_batch_that_expands_too_far_is_one_record_in_its_place(
    fetched: type[Batches], codec: int, compress: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_batches, "EXPANDED_BYTES", 1 << 20)
    monkeypatch.setattr(record_batches, "GUESSES", (1 << 10, 1 << 20))
    raw = batch(bytes(compress(record(0, bytes(2 << 20)) + record(1, b"with it"))), 2, codec)
    large, behind = read(fetched, raw, batch(record(0, b"behind"), 1))
    assert (large.value.kind, large.value.first, large.offset) == (TOO_LARGE, 10, 11)
    assert large.value[8:] == raw[8:], "its own bytes are kept"
    assert behind.value == b"behind"


BROKEN = {
    "an unknown codec": (batch(BODY, 3, 5), "codec 5 is unknown"),
    "zstd that is garbage": (batch(b"garbage", 3, ZSTD), "cannot be read"),
    "gzip that is cut off": (batch(gzip.compress(BODY)[:-9], 3, GZIP), "cut off"),
    "fewer records than it says": (batch(BODY[:-9], 3), "beyond its end"),
    "a checksum of others": (batch(BODY, 3)[:-1] + b"?", "checksum"),
}


@pytest.mark.parametrize(("raw", "why"), BROKEN.values(), ids=BROKEN)
def test_a_batch_that_cannot_be_read_says_which_offsets_and_why(fetched: type[Batches], raw: bytes, why: str) -> None:
    *before, broken, behind = read(fetched, batch(record(0, b"before"), 1), raw, batch(record(0, b"behind"), 1))
    assert isinstance(broken.value, Unreadable)
    assert (before[0].value, behind.value) == (b"before", b"behind")
    assert (broken.value.kind, broken.offset, behind.offset) == (UNREADABLE, 13, 14)
    assert f"offsets {first_offset(broken)} to 13" in broken.value.why
    assert why in broken.value.why
    assert stands_for(broken, 13)
    assert not stands_for(broken, 14)
    plan = support.plan_of()
    with pytest.raises(EventRejected, match=UNREADABLE):
        Decoder(plan, plan.scored).message(broken.value, 0)


def test_a_fetch_that_ends_within_a_batch_has_no_more(fetched: type[Batches]) -> None:
    whole = batch(BODY, 3)
    assert len(read(fetched, whole)) == 3
    assert not fetched(whole[:-1]).has_next()
    assert not fetched(b"").has_next()
