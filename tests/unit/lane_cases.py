"""What tests of lanes share: a consumer that remembers, fetches and stages to give them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from riskflow.names import Names
from stream.fetcher import Span
from stream.lanes import Lanes

ONE = TP("t", 0)
FEED, LABELS, FIRST, SECOND = "feed", "labels", "first", "second"


class FakeConsumer:
    """Remembers which partitions were full."""

    def __init__(self) -> None:
        self.full: list[Any] = []
        self.at: dict[TP, int] = {}  # what comes by hand, and up to where it came

    def skip_to(self, tp: TP, offset: int) -> None:
        self.at[tp] = offset

    def attend(self, tp: TP) -> None:
        self.at.pop(tp, None)

    def hold(self, tp: Any) -> None:
        self.full.append(tp)

    def let_go(self, tp: Any) -> None:
        self.full.remove(tp)


def records(*offsets: int, size: int = 1) -> list[Any]:
    return [SimpleNamespace(offset=o, value=b"x" * size) for o in offsets]


def span(*offsets: int, begin: int | None = None, end: int | None = None, size: int = 1, tp: TP = ONE) -> Span:
    """A fetch that brought these records, of all that stands between its ends."""
    begin = offsets[0] if begin is None else begin
    return Span(tp, begin, offsets[-1] + 1 if end is None else end, records(*offsets, size=size))


async def no_gate(_name: str) -> None:
    await asyncio.sleep(0)


class Slow:
    """A stage whose passes end when they are told to; remembers which partitions each had."""

    name, topic, internal = "events", "t", False

    def __init__(self) -> None:
        self.passes: list[list[int]] = []
        self.ending: list[asyncio.Event] = []

    async def apply(self, work: Any) -> None:
        self.passes.append([b.head.partition for b in work])
        self.ending.append(asyncio.Event())
        await self.ending[-1].wait()
        for batch in work:
            batch.head.position = batch.end


def lanes_of(stage: Slow, partitions: int, starts: int = 0) -> Lanes:
    lanes = Lanes(Names("u"), "layout", None, lambda: None, 1000, lambda error: None)
    lanes.add(stage)
    lanes.consumer = FakeConsumer()  # type: ignore[assignment]
    for p in range(partitions):
        head: Any = SimpleNamespace(
            position=0, starts=starts, parked=[], partition=p, names=Names("u"), behind=None, ended=False
        )
        lanes._open(TP("t", p), head)
    return lanes


def give(lanes: Lanes, partition: int, offset: int, size: int = 1) -> None:
    fetch: Any = SimpleNamespace(value=span(offset, size=size, tp=TP("t", partition)))
    lanes.put(fetch)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Kept:
    """A stage that keeps what it is given until it is told to go on."""

    def __init__(self, topic: str, onward: str) -> None:
        self.name = self.topic = topic
        self.internal, self.onward = topic in (FIRST, SECOND), onward
        self.got: list[tuple[int, list[tuple[int, bytes]]]] = []
        self.going_on = asyncio.Event()

    async def apply(self, work: Any) -> None:
        for batch in work:
            self.got.append((batch.head.partition, [(r.offset, r.value) for r in batch.records]))
        await self.going_on.wait()
        for batch in work:
            batch.head.position = batch.end


class Story:
    """Two feeds -> first -> second, of two partitions each; this worker has all but what is given away."""

    def __init__(self, *others: TP) -> None:
        self.stages = [Kept(FEED, FIRST), Kept(LABELS, FIRST), Kept(FIRST, SECOND), Kept(SECOND, "")]
        self.lanes = Lanes(Names("u"), "layout", None, lambda: None, 1000, self.fail)
        self.consumer = FakeConsumer()
        self.lanes.consumer = self.consumer  # type: ignore[assignment]
        for stage in self.stages:
            self.lanes.add(stage)
            self.lanes._partitions[stage.topic] = 2
            for tp in (TP(stage.topic, 0), TP(stage.topic, 1)):
                if tp not in others:
                    self.open(tp)

    def fail(self, error: BaseException) -> None:
        raise error

    def open(self, tp: TP, position: int = 5) -> None:
        head: Any = SimpleNamespace(
            position=position, starts=0, parked=[], partition=tp.partition, names=Names("u"), behind=None, ended=False
        )
        self.lanes._open(tp, head)
        self.lanes._ours = self.lanes._writes_alone()

    async def acknowledged(self, topic: str, first: int, *blocks: bytes) -> None:
        self.lanes.hand_on(TP(topic, 0), first, blocks)
        await settle()

    async def fetched(self, tp: TP, first: int, *blocks: bytes) -> None:
        found = [SimpleNamespace(offset=first + i, value=block) for i, block in enumerate(blocks)]
        fetch: Any = SimpleNamespace(value=Span(tp, first, first + len(blocks), found))
        self.lanes.put(fetch)
        await settle()

    def got(self, topic: str) -> list[tuple[int, bytes]]:
        (stage,) = [s for s in self.stages if s.topic == topic]
        return [block for _, blocks in stage.got for block in blocks]

    def next_offset(self, topic: str) -> int:
        return self.lanes._lanes[TP(topic, 0)].next_offset
