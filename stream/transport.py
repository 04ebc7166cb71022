"""Faust's Kafka transport, made lean: one fetch of a partition is one message, and positions come from our heads.

Stock Faust makes two tasks for each record and commits offsets that it tracks by itself. Here a fetch travels as one
list of records; the positions in Redis decide where reading starts; Kafka's own offsets follow them and serve
monitoring only.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import aiokafka
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import Message

from riskflow.record_batches import Batches

Records = list[Any]  # aiokafka's ConsumerRecord, in order


class Fetch(Message):
    """All records that one fetch brought from one partition; `value` is the list."""

    def __init__(self, tp: TP, records: Records) -> None:
        first = records[0]
        super().__init__(
            tp.topic, tp.partition, first.offset, first.timestamp / 1000.0, first.timestamp_type, (), None, records,
            None, tp=tp,
        )  # fmt: skip


class Fetched(Batches):
    """Record batches that are expanded within bounds before aiokafka reads them; see riskflow/record_batches.py."""

    crc = staticmethod(calc_crc32c)

    @staticmethod
    def read(raw: bytes) -> Any:
        return MemoryRecords(raw).next_batch()


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Reads committed messages only, in large fetches."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Both are read at start(), after this; Faust has no setting for them outside its transactions.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_bytes = 16 * 1024 * 1024
        fetcher.MemoryRecords = Fetched  # a worker's only consumer; there is no parameter for it
        return consumer

    async def log_range(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """First and next offset of each log, as the broker says now."""
        return dict(await self.call_thread(self._log_range, list(tps)))

    async def _log_range(self, tps: list[TP]) -> dict[TP, tuple[int, int]]:
        consumer = self._ensure_consumer()
        first = await consumer.beginning_offsets(tps)
        last = await consumer.end_offsets(tps)
        return {tp: (first[tp], last[tp]) for tp in tps}


class Consumer(driver.Consumer):
    """Hands over fetches and asks the owner of the heads where to begin."""

    # Set by the composition root.
    claim: Callable[[set[TP]], Awaitable[Mapping[TP, int]]]
    release: Callable[[set[TP]], Awaitable[None]]
    positions: Callable[[], Mapping[TP, int]]
    failed: Callable[[BaseException], None]

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def log_range(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        thread: Any = self._thread
        return dict(await thread.log_range(tps))

    async def read_from(self, positions: Mapping[TP, int]) -> None:
        """Goes back to positions of partitions that are read already."""
        await self._thread.seek_wait(positions)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Called by Faust after an assignment: heads are claimed, reading begins at their positions."""
        try:
            positions = await self.claim(self.assignment())
        except BaseException as error:
            self.failed(error)
            raise
        await self._thread.seek_wait(positions)
        return positions

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.release(set(revoked))
        await super().on_partitions_revoked(revoked)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Puts each partition's records on its agent's channel as one message."""
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                records, _ = await self._wait_next_records(1.0)
                if not records or not self.flow_active:
                    await asyncio.sleep(0)
                    continue
                for tp, found in records.items():
                    # What was fetched is handed over, even if the partition has become full meanwhile: the
                    # consumer has moved on and would not bring it again.
                    if found and tp in self.assignment():
                        await self.callback(Fetch(tp, found))
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except Exception as error:
            self.failed(error)
            raise

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Tells Kafka how far the heads are. It is for lag monitoring, so a failure is not ours to repeat."""
        positions = self.positions()
        if not positions:
            return False
        assigned = self.assignment()
        offsets = {tp: p for tp, p in positions.items() if tp in assigned and self._committed_offset[tp] != p}
        if not offsets:
            return False
        try:
            await self._commit(offsets)
        except (TimeoutError, KafkaError):
            return False
        self._committed_offset.update(offsets)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's livelock detector counts its own acknowledgements, which are not used here."""


class Producer(driver.Producer):
    """Sends whole record batches, idempotent; each is acknowledged as one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._turns: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"enable_idempotence": True}

    async def send_records(
        self,
        topic: str,
        partition: int,
        records: Iterable[tuple[bytes | None, bytes, list[tuple[str, bytes]]]],
    ) -> list[Awaitable[Any]]:
        """Queues (key, value, headers) in order and returns what must be awaited; each awaitable is one batch."""
        producer = self._ensure_producer()
        acknowledgements: list[Awaitable[Any]] = []
        # aiokafka lets a batch wait for the one before it, but counts that time wrongly when several wait at once.
        async with self._turns[topic, partition]:
            batch, used = producer.create_batch(), 0
            for key, value, headers in records:
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None, headers=headers)
                used += 1
            if used:
                acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
        return acknowledgements


class Transport(driver.Transport):
    """What the app is given as `app.transport`."""

    Consumer = Consumer
    Producer = Producer
