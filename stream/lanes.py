"""Lanes: one for each claimed partition of a stage. Fetches go in, batches are applied one after another.

Batches are adaptive: what is waiting is taken together, and nothing waits for more. Lanes of different partitions run
side by side. A lane that fails ends the worker: the state in Redis says where the next one begins.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

import structlog
from faust.types import TP

from riskflow.errors import Leave, NotReady
from riskflow.names import Names
from riskflow.state import grown
from stream import metrics
from stream.cluster import TopicInfo
from stream.head import Head, has_head
from stream.transport import Consumer, Fetch, Records

log = structlog.get_logger(__name__)
LANE_RECORDS = 20_000  # records that may wait in a lane before its partition is not fetched for a while
LANE_BYTES = 32 * 1024 * 1024
BATCH_BLOCKS = 64  # fetched blocks of an internal log merged into one batch, at most
BATCH_BYTES = 4 * 1024 * 1024
STUCK_STARTS = 3
SAME_TOPICS_S = 5.0  # between two looks at the ids of topics


class StageApply(Protocol):
    """What a lane needs of a stage."""

    name: str
    topic: str
    internal: bool

    async def apply(self, head: Head, records: Records) -> None: ...


class Lane:
    """One partition's queue and its task."""

    def __init__(self, stage: StageApply, head: Head, tp: TP, batch_rows: int, consumer: Consumer) -> None:
        self.stage, self.head, self.tp = stage, head, tp
        self._batch = BATCH_BLOCKS if stage.internal else batch_rows
        self._consumer = consumer
        self._waiting: deque[Any] = deque()
        self._something = asyncio.Event()
        self._next = head.position  # the next offset this lane takes in
        self._full = False
        self._bytes = 0
        self._gap_to: int | None = None  # where the log went on when the next offset was missing
        self._singly = head.position + self._batch if head.starts >= STUCK_STARTS else 0  # finds what fails

    def put(self, records: Records) -> bool:
        """Takes records at and after the next offset; those before it were applied or are waiting already.

        False asks for a fetch of a feed to be repeated from the next offset: offsets that a transaction used up are
        missing again then, and offsets that were only skipped are there.
        """
        fresh = records if records[0].offset == self._next else [r for r in records if r.offset >= self._next]
        if not fresh:
            return True
        if not self.stage.internal and not self._follows(fresh[0].offset):
            return False
        if self.stage.internal and fresh[0].offset != self._next:
            raise Leave(
                f"stage {self.stage.name!r}, partition {self.tp.partition}: offset {fresh[0].offset} came where "
                f"{self._next} was expected. If the log lost it (retention, another topic), run `riskflow rebuild`."
            )
        self._waiting.extend(fresh)
        self._bytes += sum(len(r.value or b"") for r in fresh)
        self._next = fresh[-1].offset + 1
        self._something.set()
        if (len(self._waiting) > LANE_RECORDS or self._bytes > LANE_BYTES) and not self._full:
            self._full = True
            self._consumer.on_buffer_full(self.tp)
        return True

    def _follows(self, first: int) -> bool:
        """Whether a fetch of a feed may be taken: it begins at the next offset, or nothing is before it once more."""
        if first == self._next or first == self._gap_to:
            self._gap_to = None
            return True
        self._gap_to = first if self._gap_to is None else min(first, self._gap_to)
        return False

    @property
    def next_offset(self) -> int:
        """The offset that the next fetch must begin with."""
        return self._next

    async def run(self, use_case: str) -> None:
        """Applies batches until cancelled."""
        took = metrics.BATCH_S.labels(use_case, self.stage.name)
        position = metrics.POSITION.labels(use_case, self.stage.name, str(self.tp.partition))
        while True:
            await self._something.wait()
            batch = self._take()
            await self._check_gap(batch)
            started = time.perf_counter()
            await self.stage.apply(self.head, batch)
            took.observe(time.perf_counter() - started)
            position.set(self.head.position)

    async def _check_gap(self, batch: Records) -> None:
        """Missing offsets of a feed are transaction markers, or retention that passed our position: that is a loss."""
        if batch[-1].offset - self.head.position + 1 == len(batch):
            return
        first, _ = (await self._consumer.log_range([self.tp]))[self.tp]
        if first > self.head.position:
            raise NotReady(
                f"topic {self.tp.topic}, partition {self.tp.partition}: retention passed the position "
                f"{self.head.position}, the log begins at {first}. Give the topic more retention, then run "
                "`riskflow rebuild`."
            )

    def _take(self) -> Records:
        batch, size = [], 0
        most = 1 if self.head.position < self._singly else self._batch
        while self._waiting and len(batch) < most and size < BATCH_BYTES:
            record = self._waiting.popleft()
            size += len(record.value or b"")
            batch.append(record)
        self._bytes -= size
        if not self._waiting:
            self._something.clear()
        if self._full and len(self._waiting) < LANE_RECORDS // 2 and self._bytes < LANE_BYTES // 2:
            self._full = False
            self._consumer.on_buffer_drop(self.tp)
        return batch


class Lanes:
    """All lanes of this worker: claimed when partitions are assigned, dropped when they are revoked."""

    def __init__(
        self,
        names: Names,
        layout: str,
        redis: Any,
        describe: Callable[[], Any],
        batch_rows: int,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._names, self._layout, self._redis, self._describe = names, layout, redis, describe
        self._batch_rows, self._failed = batch_rows, failed
        self._stages: dict[str, StageApply] = {}
        self._lanes: dict[TP, Lane] = {}
        self._tasks: dict[TP, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._ids: dict[str, str] = {}  # of all stages' topics: partitions of a deleted one are taken from us
        self.consumer: Consumer | None = None

    def add(self, stage: StageApply) -> None:
        self._stages[stage.topic] = stage

    def put(self, fetch: Fetch) -> None:
        """Hands a fetch to its lane; a fetch of a partition that was revoked meanwhile is dropped."""
        tp, records = TP(fetch.topic, fetch.partition), fetch.value
        lane = self._lanes.get(tp)
        if lane is None:
            return
        if records[-1].offset < lane.head.position:
            self._background(self._check_same_topic(tp, lane.head))
        if not lane.put(records):
            self._background(self._read_again(tp, lane.next_offset))

    async def _read_again(self, tp: TP, offset: int) -> None:
        assert self.consumer is not None
        await self.consumer.read_from({tp: offset})

    async def _check_same_topic(self, tp: TP, head: Head) -> None:
        """Offsets went back: harmless after a seek, a loss when the topic was deleted and made again."""
        topics = await self._describe()
        self._check_id(tp.topic, head.topic_id, topics[tp.topic].topic_id)

    def _check_id(self, topic: str, known: str, found: str) -> None:
        if found != known:
            raise NotReady(
                f"topic {topic} was deleted and made again while it was read. "
                f"Run `riskflow rebuild {self._names.usecase}`."
            )

    def watch(self, ids: Callable[[Iterable[str]], Awaitable[Mapping[str, str]]]) -> None:
        """Looks every few seconds whether the topics are still the same: one made again may look like a quiet one.

        ids: topic -> id of those that the broker tells of; what it does not tell of may come back.
        """
        self._background(self._watch(ids))

    async def _watch(self, ids: Callable[[Iterable[str]], Awaitable[Mapping[str, str]]]) -> None:
        while True:
            await asyncio.sleep(SAME_TOPICS_S)
            found = await ids(list(self._ids))
            for topic, known in self._ids.items():
                self._check_id(topic, known, found.get(topic, known))

    def positions(self) -> Mapping[TP, int]:
        return {tp: lane.head.position for tp, lane in self._lanes.items()}

    async def claim(self, assigned: set[TP]) -> Mapping[TP, int]:
        """Claims what is new among the assigned partitions; returns where to begin each."""
        new = [tp for tp in assigned if tp not in self._lanes and tp.topic in self._stages]
        if new:
            topics: dict[str, TopicInfo] = await self._describe()
            self._ids = {topic: topics[topic].topic_id for topic in self._stages}
            await self._check_grown(topics)
            assert self.consumer is not None
            heads = await asyncio.gather(*(self._claim(tp) for tp in new))
            ranges = await self.consumer.log_range(new)  # after the claims: nobody before us can send beyond
            for tp, head in zip(new, heads, strict=True):
                self._check(tp, head, topics[tp.topic].topic_id, ranges[tp])
                self._open(tp, head)
        return {tp: lane.head.position for tp, lane in self._lanes.items() if tp in assigned}

    async def _check_grown(self, topics: dict[str, TopicInfo]) -> None:
        """A partition added to an internal topic has no head, and rows would go to it, whoever is given it."""
        for stage in [s for s in self._stages.values() if s.internal]:
            partitions = topics[stage.topic].partitions
            there = await asyncio.gather(
                *(has_head(self._redis, self._names, stage.name, p) for p in range(partitions))
            )
            if any(there) and not all(there):
                raise NotReady(grown(self._names, stage.topic, partitions, [p for p, h in enumerate(there) if not h]))

    async def release(self, revoked: set[TP]) -> None:
        """Drops lanes at once: what they had not committed is repeated by the next owner."""
        tasks = [self._tasks.pop(tp) for tp in revoked if tp in self._tasks]
        for tp in revoked:
            self._lanes.pop(tp, None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _claim(self, tp: TP) -> Head:
        return await Head.claim(self._redis, self._names, self._stages[tp.topic].name, tp.partition)

    def _check(self, tp: TP, head: Head, topic_id: str, log_range: tuple[int, int]) -> None:
        first, end = log_range
        where = f"topic {tp.topic}, partition {tp.partition}"
        fix = f"Run `riskflow rebuild {self._names.usecase}`."
        if head.topic_id != topic_id:
            raise NotReady(
                f"{where}: the topic was deleted and made again; the position {head.position} is of another log. {fix}"
            )
        if head.layout != self._layout:
            raise NotReady(f"{where}: the records in Redis are of other windows than this plan's. {fix}")
        if not first <= head.position <= end:
            raise NotReady(
                f"{where}: the position {head.position} is outside what the log holds ({first} to {end}). {fix}"
            )
        head.fence = min(end, head.position + (BATCH_BLOCKS if self._stages[tp.topic].internal else self._batch_rows))
        if head.starts >= STUCK_STARTS and head.position < end:
            log.error(
                "started again and again without moving", stage=head.stage, partition=head.partition,
                offset=head.position, starts=head.starts,
                fix=f"riskflow park {self._names.usecase} {head.stage} {head.partition} {head.position}",
            )  # fmt: skip

    def _open(self, tp: TP, head: Head) -> None:
        assert self.consumer is not None
        lane = Lane(self._stages[tp.topic], head, tp, self._batch_rows, self.consumer)
        self._lanes[tp] = lane
        self._tasks[tp] = self._background(lane.run(self._names.usecase))

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failed(task.exception())  # type: ignore[arg-type]
