"""Lanes: one for each claimed partition of a stage. Fetches go in, and what our own stages have sent on; what waits is
applied, batch after batch.

Batches are adaptive: what is waiting is taken, and nothing waits for more. Partitions that have something waiting at
the same time are applied together, in one *pass*, because most of what a small batch costs does not depend on how many
rows it has; those that come later begin a pass of their own beside it. A pass that fails ends the worker: the state in
Redis says where the next one begins.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import accumulate, count
from typing import Any, TypeVar

import structlog
from faust.types import TP

from riskflow.errors import Leave, NotReady
from riskflow.names import Names
from riskflow.record_batches import Record
from riskflow.state import grown
from stream import metrics
from stream.batch import StageApply
from stream.cluster import TopicInfo
from stream.faults import reached
from stream.fetcher import Span
from stream.head import Commit, Head, commit, has_head, load
from stream.lane import BATCH_BLOCKS, STUCK_STARTS, Lane
from stream.transport import Consumer, Fetch

log = structlog.get_logger(__name__)
T = TypeVar("T")
PASS_BYTES = 4 * 1024 * 1024  # of all lanes of a pass; what one more batch brings comes on top
PASSES = 2  # of a stage at the same time: one computes while the other waits for Kafka and Redis
MUCH_BYTES = 256 * 1024
LONG_S = 0.25  # a pass that takes longer keeps no other stage waiting
FINISH_S = 10.0
AT_ONCE = 32  # heads asked for at the same time: each takes a connection to Redis, and there are about 100
STILL_SAME_S = 5.0  # between two looks at what nothing comes from


class Lanes:
    """All lanes of this worker: claimed when partitions are assigned, given back when they are revoked."""

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
        self._running: set[asyncio.Task[None]] = set()
        self._about_to_start = False
        self._passes: Counter[str] = Counter()  # over several lanes that run, by topic
        self._brief: set[Lane] = set()  # the first lane of each that began less than LONG_S ago
        self._served: Counter[str] = Counter()  # topics: a larger number: later
        self._order = count(1)
        self._few = asyncio.Semaphore(AT_ONCE)
        self._ids: dict[str, str] = {}  # of all stages' topics: partitions of a deleted one are taken from us
        self._partitions: dict[str, int] = {}
        self._ours: set[str] = set()  # internal topics that this worker alone writes
        self.consumer: Consumer | None = None

    def add(self, stage: StageApply) -> None:
        self._stages[stage.topic] = stage

    def put(self, fetch: Fetch) -> None:
        """Hands a fetch to its lane; a fetch of a partition that was revoked meanwhile is dropped."""
        span: Span = fetch.value
        lane = self._lanes.get(span.tp)
        if lane is None:
            return
        if span.end <= lane.head.position:
            self.background(self._check_same_topic(span.tp, lane.head))
        if not lane.put(span):
            assert self.consumer is not None
            self.consumer.read_from(span.tp, lane.next_offset)
        self._start_soon()

    def hand_on(self, tp: TP, first: int, blocks: Sequence[bytes]) -> None:
        """Puts blocks that we have sent, and that stand on the log from `first` on, into their lane without a fetch.

        Only where nobody else writes, or the log would be fetched anyway. What does not follow the lane's last offset
        (something foreign stands between), and what comes to a full lane, is left to the next fetch. Writers with open
        transactions would keep a fetch from what follows them; internal logs have none.
        """
        lane = self._lanes.get(tp)
        if lane is None or lane.closed or tp.topic not in self._ours:
            return
        assert self.consumer is not None
        records = [Record(offset, -1, 0, None, block) for offset, block in enumerate(blocks, first)]
        if first < 0 or lane.full or not lane.put(Span(tp, first, first + len(records), records)):
            self.consumer.attend(tp)
            return
        self.consumer.skip_to(tp, lane.next_offset)
        self._start_soon()

    def _writes_alone(self) -> set[str]:
        """Internal topics with no source of which another worker has a partition."""
        mine = Counter(tp.topic for tp in self._lanes)
        shared = {s.onward for s in self._stages.values() if mine[s.topic] < self._partitions[s.topic]}
        return {s.onward for s in self._stages.values()} - shared

    def _attend_to_shared(self) -> None:
        assert self.consumer is not None
        for tp in self._lanes:
            if tp.topic not in self._ours:
                self.consumer.attend(tp)

    def _start_soon(self) -> None:
        """Begins passes after all that the event loop has in hand: other partitions' fetches may be among it."""
        if not self._about_to_start:
            self._about_to_start = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        """Begins what may begin: a pass over lanes of the stage that has waited longest, one for each that is alone."""
        self._about_to_start = False
        together: defaultdict[str, list[Lane]] = defaultdict(list)
        for lane in [lane for lane in self._lanes.values() if lane.ready]:
            if lane.alone:
                lane.busy = True
                self.background(self._pass(lane.stage, [lane]))
            else:
                together[lane.tp.topic].append(lane)
        for topic in sorted(together, key=lambda topic: self._served[topic]):
            self._start_together(self._stages[topic], sorted(together[topic], key=lambda lane: lane.served))

    def _start_together(self, stage: StageApply, ready: list[Lane]) -> None:
        while ready and self._may_begin(stage.topic, ready):
            bytes_before = accumulate((lane.bytes_ready for lane in ready), initial=0)
            lanes = [lane for lane, before in zip(ready, bytes_before, strict=False) if before < PASS_BYTES]
            ready = ready[len(lanes) :]
            self._passes[stage.topic] += 1
            self._brief.add(lanes[0])
            for lane in lanes:
                lane.busy = True
            self.background(self._together(stage, lanes))

    def _may_begin(self, topic: str, lanes: list[Lane]) -> bool:
        """A pass beside another one only where much waits: what comes one by one is taken through stage after stage.

        Passes of several stages at once take turns on one thread, so that each takes as long as all of them. One that
        takes long waits for something (a bundle, Kafka, Redis) that other stages may not need.
        """
        if self._passes[topic] == 0 and not self._brief:
            return True
        return self._passes[topic] < PASSES and sum(lane.bytes_ready for lane in lanes) >= MUCH_BYTES

    async def _together(self, stage: StageApply, lanes: list[Lane]) -> None:
        timer = asyncio.get_running_loop().call_later(LONG_S, self._takes_long, lanes[0])
        await self._pass(stage, lanes)
        timer.cancel()
        self._brief.discard(lanes[0])
        self._passes[stage.topic] -= 1
        self._served[stage.topic] = next(self._order)

    def _takes_long(self, first: Lane) -> None:
        self._brief.discard(first)
        self._start_soon()

    async def _pass(self, stage: StageApply, lanes: list[Lane]) -> None:
        """One batch of each of these lanes, from fetched to committed."""
        started = time.perf_counter()
        await stage.apply([lane.take() for lane in lanes])
        metrics.BATCH_S.labels(self._names.usecase, stage.name).observe(time.perf_counter() - started)
        for lane in lanes:
            position = metrics.POSITION.labels(self._names.usecase, stage.name, str(lane.tp.partition))
            position.set(lane.head.position)
            lane.busy = False
            lane.served = next(self._order)
            if lane.head.ended and self.consumer is not None:
                self.consumer.hold(lane.tp)
        self._start_soon()

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
        """Looks every few seconds whether topics and heads are still the same: nothing may come that would show it.

        ids: topic -> id of those that the broker tells of; what it does not tell of may come back.
        """
        self.background(self._watch(ids))

    async def _watch(self, ids: Callable[[Iterable[str]], Awaitable[Mapping[str, str]]]) -> None:
        while True:
            await asyncio.sleep(STILL_SAME_S)
            await self._check_idle_heads()
            found = await ids(list(self._ids))
            for topic, known in self._ids.items():
                self._check_id(topic, known, found.get(topic, known))

    async def _check_idle_heads(self) -> None:
        """A Redis that lost its last writes is seen by the next load; where nothing comes, it is seen here."""
        idle = [lane for lane in self._lanes.values() if not (lane.busy or lane.closed)]
        for lane in idle:
            lane.busy = True
        if idle:
            await load([(lane.head, ()) for lane in idle])
        for lane in idle:
            lane.busy = False
            self._start_soon()

    def at_rest(self) -> list[Head]:
        """Of each partition in which nothing waits and nothing is being applied."""
        return [lane.head for lane in self._lanes.values() if lane.at_rest]

    def positions(self) -> Mapping[TP, int]:
        return {tp: lane.head.position for tp, lane in self._lanes.items()}

    async def claim(self, assigned: set[TP]) -> Mapping[TP, int]:
        """Claims what is new among the assigned partitions; returns where to begin each."""
        new = [tp for tp in assigned if tp not in self._lanes and tp.topic in self._stages]
        if new:
            topics: dict[str, TopicInfo] = await self._describe()
            self._ids = {topic: topics[topic].topic_id for topic in self._stages}
            self._partitions = {topic: topics[topic].partitions for topic in self._stages}
            await self._check_grown(topics)
            assert self.consumer is not None
            heads = await asyncio.gather(*(self._one_of_few(self._claim(tp, topics[tp.topic].topic_id)) for tp in new))
            reached("while_joining")
            self._check_same_kafka(
                [head.topic_id == topics[tp.topic].topic_id for tp, head in zip(new, heads, strict=True)]
            )
            ranges = await self.consumer.log_range(new)  # after the claims: nobody before us can send beyond
            for tp, head in zip(new, heads, strict=True):
                self._check(tp, head, topics[tp.topic].topic_id, ranges[tp])
                self._open(tp, head)
            quiet = [head for tp, head in zip(new, heads, strict=True) if head.position == ranges[tp][1]]
            await commit([Commit(head, head.position, nothing_waits=True) for head in quiet])
            self._ours = self._writes_alone()
        return {tp: lane.head.position for tp, lane in self._lanes.items() if tp in assigned}

    async def _check_grown(self, topics: dict[str, TopicInfo]) -> None:
        """A partition added to an internal topic has no head, and rows would go to it, whoever is given it."""
        for stage in [s for s in self._stages.values() if s.internal]:
            partitions = topics[stage.topic].partitions
            there = await asyncio.gather(
                *(self._one_of_few(has_head(self._redis, self._names, stage.name, p)) for p in range(partitions))
            )
            if any(there) and not all(there):
                raise NotReady(grown(self._names, stage.topic, partitions, [p for p, h in enumerate(there) if not h]))

    async def release(self, revoked: set[TP]) -> None:
        """Gives lanes back: what is being applied is finished first, the rest is left to the next owner."""
        given = [self._lanes[tp] for tp in revoked if tp in self._lanes]
        for lane in given:
            lane.closed = True
        reached("while_moving")
        until = time.monotonic() + FINISH_S
        while any(lane.busy for lane in given):
            if time.monotonic() > until:
                raise Leave(f"a batch was not done {FINISH_S:.0f} s after its partition went to another worker")
            await asyncio.sleep(0.01)
        for tp in revoked:
            self._lanes.pop(tp, None)
        if given:
            self._ours = self._writes_alone()
            self._attend_to_shared()

    async def _one_of_few(self, work: Coroutine[Any, Any, T]) -> T:
        async with self._few:
            return await work

    async def _claim(self, tp: TP, topic_id: str) -> Head:
        return await Head.claim(self._redis, self._names, self._stages[tp.topic].name, tp.partition, topic_id)

    def _check_same_kafka(self, ours: list[bool]) -> None:
        """One topic of several may have been made again; when no head is of its topic, two platforms are mixed."""
        if len(ours) > 1 and not any(ours):
            raise NotReady(
                f"none of the {len(ours)} heads in this Redis is of this Kafka's topics; they were left as they are. "
                "Set RISKFLOW_REDIS_URL and RISKFLOW_KAFKA to a Redis and a Kafka that belong together. If this Redis "
                f"shall serve this Kafka from now on, empty it and run `riskflow rebuild {self._names.usecase}`."
            )

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
        self._lanes[tp] = Lane(self._stages[tp.topic], head, tp, self._batch_rows, self.consumer)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Works beside the lanes; if it fails, so does the worker."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failed(task.exception())  # type: ignore[arg-type]
