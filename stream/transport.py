"""Faust's Kafka transport, made lean: one fetch of a partition is one message, and positions come from our heads.

Stock Faust makes two tasks for each record and commits offsets that it tracks by itself. Here a fetch travels as one
list of records; the positions in Redis decide where reading starts; Kafka's own offsets follow them and serve
monitoring only. The thread in which aiokafka's consumer lives keeps us in the group, and fetches nothing: fetches come
from stream/fetcher.py, in the event loop that works on them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import aiokafka
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import Message

from stream.fetcher import Fetcher, Span

FETCH_TIMEOUT_S = 10.0  # an answer is due after a tenth of a second


class Fetch(Message):
    """What one fetch brought from one partition; `value` is the Span."""

    def __init__(self, span: Span) -> None:
        tp, first = span.tp, span.records[0]
        super().__init__(
            tp.topic, tp.partition, first.offset, first.timestamp / 1000.0, first.timestamp_type, (), None, span,
            None, tp=tp,
        )  # fmt: skip


class NoFetches(aiokafka_fetcher.Fetcher):  # type: ignore[misc]
    """In the place of the group member's own fetcher: answers what it is asked about offsets, and fetches nothing."""

    async def _fetch_requests_routine(self) -> None:
        with self._subscriptions.fetch_context():  # who never fetches would be taken for stuck, and leave the group
            await asyncio.Event().wait()


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The member of the group."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        aiokafka_consumer.Fetcher = NoFetches  # a worker's only consumer; there is no parameter for it
        return super()._create_worker_consumer(transport)

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

    _fetcher: Fetcher | None = None

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def log_range(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        thread: Any = self._thread
        return dict(await thread.log_range(tps))

    def read_from(self, tp: TP, offset: int) -> None:
        """Goes back to an offset of a partition that is read already."""
        if self._fetcher is not None:
            self._fetcher.seek(tp, offset)

    def hold(self, tp: TP) -> None:
        """Fetches nothing of a partition until it is let go."""
        if self._fetcher is not None:
            self._fetcher.hold(tp)

    def let_go(self, tp: TP) -> None:
        """Goes on fetching it."""
        if self._fetcher is not None:
            self._fetcher.let_go(tp)

    def skip_to(self, tp: TP, offset: int) -> None:
        """What comes before this offset need not be fetched."""
        if self._fetcher is not None:
            self._fetcher.skip_to(tp, offset)

    def attend(self, tp: TP) -> None:
        """Fetches a partition with each poll again."""
        if self._fetcher is not None:
            self._fetcher.attend(tp)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Called by Faust after an assignment: heads are claimed, reading begins at their positions."""
        try:
            positions = await self.claim(self.assignment())
            if self._fetcher is None:
                self._fetcher = self._new_fetcher()
                await self._fetcher.start()
            await self._fetcher.read(positions)
        except BaseException as error:
            self.failed(error)
            raise
        return positions

    def _new_fetcher(self) -> Fetcher:
        conf = self.app.conf
        client = AIOKafkaClient(
            client_id=conf.broker_client_id,
            bootstrap_servers=driver.server_list(self.transport.url, self.transport.default_port),
            request_timeout_ms=int(FETCH_TIMEOUT_S * 1000),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )
        return Fetcher(client, self._deliver, self.failed)

    async def _deliver(self, span: Span) -> None:
        await self.callback(Fetch(span))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        if self._fetcher is not None:
            self._fetcher.leave(revoked)
        await self.release(set(revoked))
        await super().on_partitions_revoked(revoked)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's loop for fetches has nothing to do here."""
        await asyncio.Event().wait()

    async def on_stop(self) -> None:
        if self._fetcher is not None:
            await self._fetcher.stop()
        await super().on_stop()

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

    # Set by the composition root: told of each batch that stands on its log: where its values begin, and these.
    on_log: Callable[[TP, int, list[bytes]], None]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._turns: defaultdict[TP, asyncio.Lock] = defaultdict(asyncio.Lock)

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"enable_idempotence": True}

    async def send_records(
        self,
        topic: str,
        partition: int,
        records: Iterable[tuple[bytes | None, bytes, list[tuple[str, bytes]]]],
    ) -> list[Awaitable[Any]]:
        """Queues (key, value, headers) in order and returns what must be awaited; each awaitable is one batch."""
        producer, tp = self._ensure_producer(), TP(topic, partition)
        acknowledgements: list[Awaitable[Any]] = []
        # aiokafka lets a batch wait for the one before it, but counts that time wrongly when several wait at once.
        async with self._turns[tp]:
            batch, values = producer.create_batch(), list[bytes]()
            for key, value, headers in records:
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    acknowledgements.append(await self._send(batch, tp, values))
                    batch, values = producer.create_batch(), []
                    batch.append(key=key, value=value, timestamp=None, headers=headers)
                values.append(value)
            if values:
                acknowledgements.append(await self._send(batch, tp, values))
        return acknowledgements

    async def _send(self, batch: Any, tp: TP, values: list[bytes]) -> Awaitable[Any]:
        acknowledgement: asyncio.Future[Any]
        acknowledgement = await self._ensure_producer().send_batch(batch, tp.topic, partition=tp.partition)
        acknowledgement.add_done_callback(partial(self._acknowledged, tp, values))
        return acknowledgement

    def _acknowledged(self, tp: TP, values: list[bytes], acknowledgement: asyncio.Future[Any]) -> None:
        if not acknowledgement.cancelled() and acknowledgement.exception() is None:
            self.on_log(tp, acknowledgement.result().offset, values)


class Transport(driver.Transport):
    """What the app is given as `app.transport`."""

    Consumer = Consumer
    Producer = Producer
