"""Reads ranges of Kafka's logs with kafka-python, batch by batch, within bounds of memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatch as Records
from aiokafka.record.util import calc_crc32c
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer import fetcher
from kafka.record.default_records import DefaultRecordBatch

from riskflow import record_batches
from riskflow.errors import NotReady
from riskflow.record_batches import Batch, Batches, stands_for

FLUSH_BYTES = 32 * 1024 * 1024  # of one partition in memory before it is handed over
POLL_MS, POLL_BATCHES = 1000, 200
ANSWER_S = 60.0
Record = Any  # offset, timestamp (ms), key, value, headers


class Fetched(Batches):
    """Record batches as the stream reads them, so that both find the same messages; see riskflow/record_batches.py."""

    read = staticmethod(DefaultRecordBatch)
    crc = staticmethod(calc_crc32c)


class Whole(Batch):
    """A batch that kafka-python takes for one record, whose value is the list of its records.

    It spends 15 us on each record that it hands over. aiokafka's reader of records is ten times as fast as its own.
    """

    def __init__(self, raw: bytes, read: Callable[[bytes], Any], crc: Callable[[bytes], int]) -> None:
        super().__init__(raw, read, crc)
        self._read = Records

    def __iter__(self) -> Iterator[Any]:
        found = list(super().__iter__())
        if found:
            last = found[-1]
            yield record_batches.Record(last.offset, last.timestamp, last.timestamp_type, None, found)


class _Whole(fetcher.Fetcher.PartitionRecords):  # type: ignore[misc]
    """What a fetch brought of one partition, batch by batch."""

    def __init__(self, fetch_offset: int, tp: TopicPartition, fetched: Fetched, **options: Any) -> None:
        fetched.batch = Whole
        super().__init__(fetch_offset, tp, fetched, **options)


def read_log(
    kafka: str, topic: str, ranges: dict[int, tuple[int, int]], flush_bytes: int = FLUSH_BYTES
) -> Iterator[tuple[int, list[Record], int, int]]:
    """(partition, records, first, last) until each partition's range [start, end) is read.

    first and last are the offsets that these records stand for: compacted ones and markers of transactions included.
    Raises NotReady when Kafka stops answering.
    """
    tps = {TopicPartition(topic, p): r for p, r in ranges.items() if r[0] < r[1]}
    consumer = _consumer(kafka)
    try:
        consumer.assign(list(tps))
        for tp, (start, _) in tps.items():
            consumer.seek(tp, start)
        yield from _drain(consumer, tps, flush_bytes)
    finally:
        consumer.close()


def read_at(kafka: str, topic: str, places: list[tuple[int, int]]) -> dict[tuple[int, int], Record]:
    """The records that stand for these (partition, offset), where the log still has them."""
    out: dict[tuple[int, int], Record] = {}
    consumer = _consumer(kafka)
    try:
        for partition, offset in sorted(set(places)):
            tp = TopicPartition(topic, partition)
            consumer.assign([tp])
            if not consumer.beginning_offsets([tp])[tp] <= offset < consumer.end_offsets([tp])[tp]:
                continue
            consumer.seek(tp, offset)
            polled = consumer.poll(POLL_MS * 10, max_records=1).get(tp, [])
            found = next((r for r in _records(polled) if stands_for(r, offset)), None)
            if found is not None:
                out[partition, offset] = found
    finally:
        consumer.close()
    return out


def _consumer(kafka: str) -> KafkaConsumer:
    fetcher.MemoryRecords = Fetched  # there is no parameter for it
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.split(","),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_poll_records=POLL_BATCHES,
        max_partition_fetch_bytes=8 * 1024 * 1024,
        fetch_max_bytes=32 * 1024 * 1024,
        check_crcs=False,  # Fetched does it
    )
    consumer._fetcher.PartitionRecords = _Whole  # of this consumer alone
    return consumer


def _records(polled: list[Any]) -> Iterator[Record]:
    """Those of batches; a log from before Kafka 0.11 has records without batches."""
    for one in polled:
        yield from one.value if isinstance(one.value, list) else (one,)


def _drain(
    consumer: KafkaConsumer, tps: dict[TopicPartition, tuple[int, int]], flush_bytes: int
) -> Iterator[tuple[int, list[Record], int, int]]:
    waiting: dict[TopicPartition, list[Record]] = {tp: [] for tp in tps}
    starts = {tp: start for tp, (start, _) in tps.items()}
    sizes = dict.fromkeys(tps, 0)
    heard = time.monotonic()
    while waiting:
        for tp, polled in consumer.poll(POLL_MS).items():
            heard = time.monotonic()
            if tp in waiting:
                start, end = tps[tp]
                mine = [r for r in _records(polled) if start <= r.offset < end]
                waiting[tp].extend(mine)
                sizes[tp] += sum(len(r.value or b"") + 100 for r in mine)
        for tp in list(waiting):
            position = min(consumer.position(tp), tps[tp][1])
            finished = position >= tps[tp][1]
            if (finished or sizes[tp] > flush_bytes) and position > starts[tp]:
                if waiting[tp]:
                    yield tp.partition, waiting[tp], starts[tp], position - 1
                    starts[tp] = position
                waiting[tp], sizes[tp] = [], 0
            if finished:
                del waiting[tp]
                consumer.pause(tp)
        if time.monotonic() - heard > ANSWER_S:
            raise NotReady(
                f"Kafka has not answered for {ANSWER_S:.0f} s while {list(waiting)} were read. Run `riskflow up`."
            )
