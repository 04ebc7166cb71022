"""Fetches: what the brokers have of this worker's partitions, by one long poll to each broker, in the event loop.

Where reading stands is decided here and by the heads alone. An answer to what is not wanted any more (the partition
went, or was sought elsewhere) is dropped. A partition that its lane holds is left out until it is let go. One whose
records come to its lane by hand (Lanes.hand_on) is only looked at now and then, lest what we have wakes the long poll.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiokafka.errors as errors
import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from faust.types import TP

from riskflow.errors import NotReady
from riskflow.record_batches import Batches
from stream.fetch_session import MAX_WAIT_MS, Answer, Found, Session

log = structlog.get_logger(__name__)
POLL_S = 0.002  # at least from one poll to the next: each costs as much as scoring a few events
LOOK_S = 0.1  # between two looks at what comes by hand
RETRY_S = 0.1
REFRESH_S = 0.2  # between two looks for a leader that is not known
AWAY = (errors.KafkaError, OSError, asyncio.TimeoutError)
REFUSED = (errors.TopicAuthorizationFailedError, errors.GroupAuthorizationFailedError)

Records = list[Any]  # aiokafka's records, in order: offset, timestamp (ms), key, value, headers


@dataclass(frozen=True, slots=True)
class Span:
    """All that stands in a partition's log from `begin` to before `end`: markers and aborted records are not shown."""

    tp: TP
    begin: int
    end: int
    records: Records


class Fetched(Batches):
    """Record batches that are expanded within bounds; see riskflow/record_batches.py."""

    crc = staticmethod(calc_crc32c)

    @staticmethod
    def read(raw: bytes) -> Any:
        return MemoryRecords(raw).next_batch()


class Committed(PartitionRecords):  # type: ignore[misc]
    """aiokafka's reading of batches: without those of aborted transactions, and without markers."""

    def __init__(self, found: Found, offset: int) -> None:
        super().__init__(found.tp, Fetched(found.data), found.aborted, offset, None, None, False, READ_COMMITTED)

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        return record


class Fetcher:
    """Reads the partitions that it is given from the offsets that it is given."""

    def __init__(
        self,
        client: AIOKafkaClient,
        deliver: Callable[[Span], Awaitable[None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._client, self._deliver, self._failed = client, deliver, failed
        self._next: dict[TP, int] = {}  # what is read, and from where on
        self._delivered: dict[TP, int] = {}  # up to where it was handed over, or sought
        self._held: set[TP] = set()  # by their lanes
        self._by_hand: set[TP] = set()
        self._resting: set[TP] = set()  # not to be had just now
        self._led: dict[int, list[TP]] = {}  # by the number of the broker
        self._polls: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        client.cluster.add_listener(lambda _: self._locate())

    async def start(self) -> None:
        """Connects; keeps on trying while no broker answers."""
        while True:
            try:
                return await self._client.bootstrap()
            except AWAY as error:
                log.warning("Kafka is away, waiting", error=repr(error))
                await asyncio.sleep(RETRY_S)

    async def stop(self) -> None:
        for poll in self._polls.values():
            poll.cancel()
        await asyncio.gather(*self._polls.values(), return_exceptions=True)
        await self._client.close()

    async def read(self, positions: Mapping[TP, int]) -> None:
        """Reads these partitions, and no others, from these offsets on; those read already go on where they are."""
        self._next = {tp: self._next.get(tp, offset) for tp, offset in positions.items()}
        self._delivered = {tp: self._delivered.get(tp, offset) for tp, offset in positions.items()}
        self._held &= set(self._next)
        self._by_hand &= set(self._next)
        if positions:
            await self._client.set_topics({tp.topic for tp in positions})
        self._locate()

    def leave(self, tps: Iterable[TP]) -> None:
        """Reads these no more."""
        for tp in tps:
            self._next.pop(tp, None)
            self._delivered.pop(tp, None)
            self._held.discard(tp)
            self._by_hand.discard(tp)

    def seek(self, tp: TP, offset: int) -> None:
        """Goes on from another offset."""
        if tp in self._next:
            self._next[tp] = self._delivered[tp] = offset
            self.attend(tp)

    def skip_to(self, tp: TP, offset: int) -> None:
        """What comes before this offset came by hand, and so will what follows."""
        if tp in self._next:
            self._next[tp] = max(self._next[tp], offset)
            self._delivered[tp] = max(self._delivered[tp], offset)
            self._by_hand.add(tp)

    def attend(self, tp: TP) -> None:
        """Reads it with each poll again."""
        if tp in self._by_hand:
            self._by_hand.discard(tp)
            self._changed.set()

    def hold(self, tp: TP) -> None:
        """Fetches nothing of it for a while."""
        self._held.add(tp)

    def let_go(self, tp: TP) -> None:
        self._held.discard(tp)
        self._changed.set()

    def _locate(self) -> None:
        """Who leads what; where nobody does, that is asked again soon."""
        led: defaultdict[int, list[TP]] = defaultdict(list)
        for tp in self._next:
            led[self._leader(tp)].append(tp)
        lost = led.pop(-1, [])
        self._led = dict(led)
        for node in self._led:
            if node not in self._polls:
                poll = asyncio.get_running_loop().create_task(self._poll(node))
                poll.add_done_callback(self._ended)
                self._polls[node] = poll
        self._changed.set()
        if lost:
            asyncio.get_running_loop().call_later(REFRESH_S, self._client.force_metadata_update)

    def _leader(self, tp: TP) -> int:
        leader = self._client.cluster.leader_for_partition(TopicPartition(*tp))
        return -1 if leader is None else int(leader)

    def _ended(self, poll: asyncio.Task[None]) -> None:
        if not poll.cancelled() and poll.exception() is not None:
            self._failed(poll.exception())  # type: ignore[arg-type]

    async def _poll(self, node: int) -> None:
        """Asks one broker again and again."""
        session, at, looked = Session(), 0.0, 0.0
        while True:
            await asyncio.sleep(max(0.0, at + POLL_S - time.monotonic()))
            at = time.monotonic()
            wanted, wait_ms = self._wanted(node), MAX_WAIT_MS
            if at - looked >= LOOK_S and (by_hand := self._wanted(node, by_hand=True)):
                wanted, wait_ms, looked = wanted | by_hand, 0, at
            if not wanted:
                self._changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), LOOK_S)
                continue
            try:
                answer: Answer = await self._client.send(node, session.request(wanted, wait_ms))
            except AWAY as error:
                log.warning("no answer to a fetch", broker=node, error=repr(error))
                answer, session = Answer(0, 0, []), Session()
                self._client.force_metadata_update()
                await asyncio.sleep(RETRY_S)
            if answer.error:
                session = Session()  # the broker has forgotten it, or lost count
                continue
            session.answered(answer)
            for found in answer.found:
                if self._next.get(found.tp) == wanted.get(found.tp) and not await self._take(found):
                    session.again(found.tp)

    def _wanted(self, node: int, by_hand: bool = False) -> dict[TP, int]:
        return {
            tp: self._next[tp]
            for tp in self._led.get(node, ())
            if tp in self._next and (tp in self._by_hand) is by_hand and not (tp in self._held or tp in self._resting)
        }

    def _rest(self, tp: TP) -> None:
        """Tries a partition again in a moment; others are not kept waiting."""
        self._resting.add(tp)
        self._client.force_metadata_update()
        asyncio.get_running_loop().call_later(REFRESH_S, self._awake, tp)

    def _awake(self, tp: TP) -> None:
        self._resting.discard(tp)
        self._changed.set()

    async def _take(self, found: Found) -> bool:
        """Hands over what was found; False when the broker said why there is nothing."""
        tp = found.tp
        if found.error:
            self._refused(tp, errors.for_code(found.error))
            return False
        if not found.data:
            return True
        read = Committed(found, self._next[tp])
        records = list(read)
        self._next[tp] = read.next_fetch_offset
        if records:
            self._by_hand.discard(tp)
            begin, self._delivered[tp] = self._delivered[tp], read.next_fetch_offset
            await self._deliver(Span(tp, begin, read.next_fetch_offset, records))
        return True

    def _refused(self, tp: TP, error: type[Exception]) -> None:
        where = f"topic {tp.topic}, partition {tp.partition}"
        if issubclass(error, errors.OffsetOutOfRangeError):
            raise NotReady(
                f"{where}: the position {self._next[tp]} is outside what the log holds: retention passed it, or the "
                "topic lost what it had. Give the topic more retention, then run `riskflow rebuild`."
            )
        if issubclass(error, REFUSED):
            raise NotReady(f"{where}: Kafka does not let this worker read it ({error.__name__}). Ask for its rights.")
        log.warning("a partition cannot be read now", topic=tp.topic, partition=tp.partition, error=error.__name__)
        self._rest(tp)
