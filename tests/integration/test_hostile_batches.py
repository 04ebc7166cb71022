"""Whole record batches that are broken, strange or far larger than they look: it is said, and nothing else stops."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cramjam
import polars as pl
import pytest

from batch import lake
from batch.archive import archive
from batch.park import park
from ops.local import Services
from tests import support
from tests.chaos.observer import wait_until
from tests.integration import batch_cases as cases
from tests.integration.worker import Bench, bench, event
from tests.raw_batches import GZIP, SNAPPY, ZSTD, batch, damage, record, send

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
NOT_READY = 3
MIB = 1 << 20


@pytest.fixture(scope="module")
def stream(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A worker that has scored one event."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RISKFLOW_LAKE", str(folder / "lake"))
        with bench("hostile.", folder / "worker.log", patch) as made:
            support.publish_small(made.plan)
            made.start()
            made.send("events", event("warm"))
            made.wait_scored({"warm"}, 120)
            yield made


def put(stream: Bench, *values: bytes, codec: int = 0, header: bytes | None = None, behind: bytes = b"") -> int:
    """Sends one batch with these values to partition 0 of the events, compressed here; `behind` is added to that."""
    body = b"".join(record(i, value, header) for i, value in enumerate(values))
    return send(
        stream.conf.kafka, stream.names.feed("events"), 0, batch(packed(body, codec) + behind, len(values), codec)
    )


def packed(body: bytes, codec: int) -> bytes:
    if codec == GZIP:
        return gzip.compress(body)
    if codec == SNAPPY:  # as a Java library of another version frames it
        block = bytes(cramjam.snappy.compress_raw(body))
        return b"\x82SNAPPY\x00" + struct.pack(">iii", 2, 1, len(block)) + block
    return bytes(cramjam.zstd.compress(body)) if codec == ZSTD else body


def peak_bytes(stream: Bench) -> int:
    """The most memory that the worker has ever had."""
    assert stream.process is not None
    status = Path(f"/proc/{stream.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def rejected(stream: Bench, offset: int) -> list[tuple[str, str]]:
    """(type, detail) of what was rejected at an offset of partition 0."""
    found = [(kind, detail, {k: v.decode() for k, v in r.headers}) for kind, detail, r in stream.rejected()]
    place = ("0", str(offset))
    return [(k, d) for k, d, h in found if (h["source-partition"], h["source-offset"]) == place]


def archived(stream: Bench) -> Any:
    """Offset -> status of partition 0 of the events in the lake."""
    archive(stream.plan, stream.conf)
    frame = lake.read_topic(stream.conf.lake_folder, stream.names.feed("events")).filter(pl.col(lake.PARTITION) == 0)
    return dict(frame.select(lake.OFFSET, lake.STATUS).iter_rows())


def test_what_the_broker_and_java_can_read_is_scored_and_archived(stream: Bench) -> None:
    offsets = [
        put(stream, event("a header in latin-1"), header="caf\u00e9".encode("latin-1")),
        put(stream, event("more behind gzip"), codec=GZIP, behind=b"trailing"),
        put(stream, event("snappy of another version"), codec=SNAPPY),
    ]
    stream.wait_scored({"a header in latin-1", "more behind gzip", "snappy of another version"})
    assert {archived(stream)[offset] for offset in offsets} == {lake.ACCEPTED}


@pytest.mark.parametrize("codec", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_a_small_batch_that_expands_to_300_mb_is_rejected_in_bounded_memory(stream: Bench, codec: int) -> None:
    before = peak_bytes(stream)
    bomb = put(stream, bytes(300 * MIB), codec=codec)
    put(stream, event(f"behind the bomb {codec}"))
    stream.wait_scored({f"behind the bomb {codec}"})
    assert [kind for kind, _ in rejected(stream, bomb)] == ["too_large"]
    assert "64 MiB" in rejected(stream, bomb)[0][1]
    assert peak_bytes(stream) - before < 150 * MIB
    assert archived(stream)[bomb] == "too_large"


def test_messages_above_4_mib_are_rejected_one_by_one(stream: Bench) -> None:
    first = put(stream, bytes(5 * MIB), event("between large ones"), bytes(6 * MIB), codec=ZSTD)
    stream.wait_scored({"between large ones"})
    wait_until(lambda: rejected(stream, first + 2), 30, "rejecting the second one")
    assert [kind for i in (0, 2) for kind, _ in rejected(stream, first + i)] == ["too_large", "too_large"]


def test_100_000_tiny_messages_in_a_small_batch_are_rejected_one_by_one(stream: Bench) -> None:
    before, there = peak_bytes(stream), stream.topics.end(stream.names.rejected)
    put(stream, *([b"1"] * 100_000), codec=ZSTD)
    put(stream, event("behind the tiny ones"))
    stream.wait_scored({"behind the tiny ones"})
    assert stream.topics.end(stream.names.rejected) == there + 100_000
    assert peak_bytes(stream) - before < 150 * MIB


def broken(stream: Bench, name: str) -> int:
    """Stops the worker and leaves a batch of two that nobody can read between good ones; its first offset."""
    stream.stop()
    put(stream, event(f"before {name}"))
    offset = put(stream, event(f"{name} 1"), event(f"{name} 2"))
    put(stream, event(f"behind {name}"))
    # No broker takes such a batch from a producer: it comes from a disk.
    damage(stream.conf.home, stream.names.feed("events"), 0, f"{name} 1".encode(), codec=6)
    stream.start()
    return offset


@pytest.mark.long
def test_behind_a_parked_batch_the_worker_goes_on(stream: Bench) -> None:
    offset = broken(stream, "parked")
    assert stream.ended() == NOT_READY
    cases.forget_member()
    park(stream.plan, stream.conf, "events", 0, offset)
    stream.start()
    stream.wait_scored({"before parked", "behind parked"}, 120)
    assert [kind for kind, _ in rejected(stream, offset)] == ["unreadable"]
    assert not {"parked 1", "parked 2"} & set(stream.scores())
    assert archived(stream)[offset + 1] == "unreadable"


@pytest.mark.long
def test_a_batch_that_nobody_can_read_ends_the_worker_with_the_command(stream: Bench) -> None:
    offset = broken(stream, "broken")
    assert stream.ended() == NOT_READY
    assert "behind broken" not in stream.scores()
    said = stream.said()
    assert f"topic {stream.names.feed('events')}, partition 0" in said
    assert f"offsets {offset} to {offset + 1} cannot be read" in said
    assert f"riskflow park card_fraud events 0 {offset}" in said

    cases.forget_member()
    done = park(stream.plan, stream.conf, "events", 0, offset)
    assert (done.offset, done.rows) == (offset, 2)
    assert b"broken 2" in done.kept.read_bytes()
