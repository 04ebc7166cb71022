"""What a lane takes in: every offset once, and no jump that was not seen twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from riskflow.errors import Leave, NotReady
from riskflow.names import Names
from riskflow.record_batches import TooLarge, Unreadable
from riskflow.state import new_head
from stream.cluster import TopicIds
from stream.fetcher import Span
from stream.head import Commit, Head, commit
from stream.lane import BATCH_BYTES, LANE_RECORDS, Lane
from stream.lanes import AT_ONCE, MUCH_BYTES, Lanes
from tests.model.store import Client, Store, Version


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


ONE = TP("t", 0)


def lane(internal: bool = False, starts: int = 0) -> Lane:
    stage: Any = SimpleNamespace(name="events", topic="t", internal=internal)
    head: Any = SimpleNamespace(position=10, starts=starts, parked=[], behind=None, ended=False)
    return Lane(stage, head, TP("t", 0), 1000, FakeConsumer())  # type: ignore[arg-type]


def records(*offsets: int, size: int = 1) -> list[Any]:
    return [SimpleNamespace(offset=o, value=b"x" * size) for o in offsets]


def span(*offsets: int, begin: int | None = None, end: int | None = None, size: int = 1, tp: TP = ONE) -> Span:
    """A fetch that brought these records, of all that stands between its ends."""
    begin = offsets[0] if begin is None else begin
    return Span(tp, begin, offsets[-1] + 1 if end is None else end, records(*offsets, size=size))


def unreadable(first: int, last: int, error: Exception | None = None) -> Any:
    """One record in place of a batch that could not be read."""
    return SimpleNamespace(offset=last, value=Unreadable.of(b"raw", first, last, error or ValueError("broken")))


def taken(of: Lane) -> list[int]:
    return [r.offset for r in of._waiting]


def test_offsets_that_were_applied_or_wait_already_are_dropped() -> None:
    one = lane()
    assert one.put(span(8, 9, 10, 11))
    assert one.put(span(10, 11, 12))
    assert taken(one) == [10, 11, 12]


@pytest.mark.parametrize("internal", [False, True])
def test_what_was_lost_on_its_way_to_the_lane_is_read_again(internal: bool) -> None:
    one = lane(internal)
    assert not one.put(span(14, 15))
    assert taken(one) == []
    assert one.next_offset == 10
    assert one.put(span(10, 11, 12, 13, 14, 15))
    assert taken(one) == [10, 11, 12, 13, 14, 15]


def test_offsets_of_a_feed_that_the_broker_does_not_show_are_passed() -> None:
    """Markers of transactions, and what was aborted."""
    one = lane()
    assert one.put(span(14, 15, begin=10, end=18))
    assert one.next_offset == 18
    assert one.put(span(18))
    assert taken(one) == [14, 15, 18]


def test_an_internal_log_that_lost_offsets_ends_the_worker() -> None:
    with pytest.raises(Leave, match="was expected"):
        lane(internal=True).put(span(12, begin=10))


def test_a_full_lane_is_not_fetched_until_it_is_half_empty() -> None:
    one = lane()
    consumer: Any = one._consumer
    one.put(span(*range(10, 10 + LANE_RECORDS + 1)))
    assert consumer.full
    while consumer.full:
        one._take()
    assert 0 < len(one._waiting) < LANE_RECORDS


def test_a_lane_is_full_by_bytes_too() -> None:
    one = lane(internal=True)
    one.put(span(*range(10, 90), size=512 * 1024))
    consumer: Any = one._consumer
    assert consumer.full


def test_a_lane_that_started_again_and_again_goes_record_by_record() -> None:
    one = lane(starts=3)
    one.put(span(10, 11, 12))
    assert [r.offset for r in one._take()] == [10]


NAMES = Names("card_fraud")


async def ended_by(*answers: dict[str, str]) -> list[BaseException]:
    """Why the worker ends when the broker gives these answers about the topic `t`, whose id was `first`."""
    left, ended = list(answers), list[BaseException]()

    async def ids(topics: Iterable[str]) -> dict[str, str]:
        assert set(topics) == {"t"}
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    lanes = Lanes(NAMES, "layout", None, None, 1000, ended.append)  # type: ignore[arg-type]
    lanes._ids = {"t": "first"}
    lanes.watch(ids)
    while left and not ended:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    for task in list(lanes._running):
        task.cancel()
    return ended


async def test_a_topic_that_was_made_again_is_noticed_while_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.lanes.STILL_SAME_S", 0)
    (why,) = await ended_by({"t": "first"}, {"t": "second"})
    assert isinstance(why, NotReady)
    assert "topic t was deleted and made again" in str(why)


async def no_gate(_name: str) -> None:
    await asyncio.sleep(0)


async def test_a_redis_that_lost_its_last_writes_is_noticed_while_nothing_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream.lanes.STILL_SAME_S", 0)
    store, ended = Store(), list[BaseException]()
    names = Names("u")
    lanes = Lanes(names, "layout", None, None, 1000, ended.append)  # type: ignore[arg-type]
    lanes.add(Slow())
    lanes.consumer = FakeConsumer()  # type: ignore[assignment]
    redis: Any = Client(store, no_gate)
    for partition in range(2):
        values = {k.encode(): str(v).encode() for k, v in new_head(5, "id", "layout").items()}
        store.write(names.head("events", partition), Version(0, values, {}))
        lanes._open(TP("t", partition), await Head.claim(redis, names, "events", partition, "id"))

    async def ids(topics: Iterable[str]) -> dict[str, str]:
        return {}

    lanes.watch(ids)
    await settle()
    assert not ended
    lanes._lanes[ONE].head.position = 6  # as committed, and then lost
    await settle()
    for task in list(lanes._running):
        task.cancel()
    assert isinstance(ended[0], Leave)
    assert "Redis lost its last writes" in str(ended[0])


async def test_a_broker_that_says_nothing_is_no_other_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.lanes.STILL_SAME_S", 0)
    assert await ended_by({}, {"t": "first"}, {}) == []


async def test_kafka_that_is_away_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.cluster.ASK_MS", 200)
    assert await TopicIds("127.0.0.1:1").of(["t"]) == {}


@pytest.mark.parametrize("internal", [False, True])
def test_a_batch_that_cannot_be_read_follows_the_offset_before_it_and_is_taken_alone(internal: bool) -> None:
    one = lane(internal)
    assert one.put(Span(ONE, 10, 17, [*records(10, 11), unreadable(12, 14), *records(15, 16)]))
    assert [[r.offset for r in one._take()] for _ in range(3)] == [[10, 11], [14], [15, 16]]


@pytest.mark.parametrize("internal", [False, True])
def test_the_place_of_a_batch_is_no_jump_when_it_is_fetched_alone(internal: bool) -> None:
    one = lane(internal)
    assert one.put(Span(ONE, 10, 15, [unreadable(10, 14)]))
    assert one.put(span(15))


def test_a_batch_that_cannot_be_read_ends_the_worker_until_it_is_parked() -> None:
    one, record = lane(), unreadable(12, 14)
    with pytest.raises(NotReady, match=r"offsets 12 to 14 cannot be read.*`riskflow park shop events 0 12`"):
        one._check_readable(record, "shop")
    one.head.parked = [11, 15]
    with pytest.raises(NotReady, match="riskflow park"):
        one._check_readable(record, "shop")
    one.head.parked = [12]
    one._check_readable(record, "shop")


def test_a_batch_that_is_too_large_is_left_to_the_feed_to_reject() -> None:
    lane()._check_readable(unreadable(12, 14, TooLarge()), "shop")


def test_an_internal_log_that_cannot_be_read_needs_another_replica_and_is_never_passed_over() -> None:
    one = lane(internal=True)
    one.head.parked = [12]
    with pytest.raises(NotReady, match="replica"):
        one._check_readable(unreadable(12, 14), "shop")


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


def test_what_comes_meanwhile_is_taken_together_by_the_next_pass() -> None:
    async def story() -> None:
        stage = Slow()
        lanes = lanes_of(stage, 4)
        for p in (0, 1):
            give(lanes, p, 0)
        await settle()
        for p, offset in ((2, 0), (0, 1), (3, 0)):
            give(lanes, p, offset)
            await settle()
        assert stage.passes == [[0, 1]]
        stage.ending[0].set()
        await settle()
        assert stage.passes == [[0, 1], [2, 3, 0]]  # 2 and 3 have waited longer

    asyncio.run(story())


def test_where_much_waits_two_passes_run_beside_each_other() -> None:
    async def story() -> None:
        stage = Slow()
        lanes = lanes_of(stage, 4)
        for p in range(4):
            give(lanes, p, 0, size=MUCH_BYTES)
            await settle()
        assert stage.passes == [[0], [1]]
        stage.ending[1].set()
        await settle()
        assert stage.passes == [[0], [1], [2, 3]]

    asyncio.run(story())


async def test_what_comes_one_by_one_is_taken_through_stage_after_stage() -> None:
    story = Story()
    feed, labels, first, second = story.stages
    await story.fetched(TP(FEED, 0), 5, b"a")
    await story.acknowledged(FIRST, 5, b"a")
    await story.fetched(TP(FEED, 0), 6, b"b")
    await story.fetched(TP(LABELS, 0), 5, b"c")
    assert [len(s.got) for s in story.stages] == [1, 0, 0, 0]
    feed.going_on.set()
    await settle()
    assert [len(s.got) for s in story.stages] == [1, 1, 0, 0], "none has had its turn: the first one comes first"
    labels.going_on.set()
    await settle()
    assert [len(s.got) for s in story.stages] == [1, 1, 1, 0], "it has waited longer than the feed"
    await story.acknowledged(SECOND, 5, b"a")
    first.going_on.set()
    await settle()
    assert [len(s.got) for s in story.stages] == [1, 1, 1, 1]
    second.going_on.set()
    await settle()
    assert [len(s.got) for s in story.stages] == [2, 1, 1, 1]


async def test_a_pass_that_waits_for_something_keeps_no_other_stage_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.lanes.LONG_S", 0.02)
    story = Story()
    await story.fetched(TP(SECOND, 0), 5, b"a")
    await story.fetched(TP(FEED, 0), 5, b"a")
    assert [len(s.got) for s in story.stages] == [0, 0, 0, 1]
    await asyncio.sleep(0.05)
    assert [len(s.got) for s in story.stages] == [1, 0, 0, 1]
    await story.fetched(TP(SECOND, 1), 5, b"b")
    assert len(story.stages[3].got) == 1, "of a stage there is one, as before"


async def test_much_that_waits_begins_beside_a_pass_of_another_stage() -> None:
    story = Story()
    await story.fetched(TP(FEED, 0), 5, b"a")
    await story.acknowledged(FIRST, 5, b"x" * MUCH_BYTES)
    assert [len(s.got) for s in story.stages] == [1, 0, 1, 0]


def test_a_pass_is_bounded_in_bytes_and_no_lane_is_passed_over_for_ever() -> None:
    async def story() -> None:
        stage = Slow()
        lanes = lanes_of(stage, 5)
        for p in range(5):
            for offset in range(3):
                give(lanes, p, offset, size=BATCH_BYTES)
        for turn in range(12):
            await settle()
            assert len(stage.passes) == turn + 2
            stage.ending[turn].set()
        seen = [p for taken in stage.passes for p in taken]
        assert all(len(taken) == 1 for taken in stage.passes)
        assert sorted(seen[:5]) == sorted(seen[5:10]) == [0, 1, 2, 3, 4]

    asyncio.run(story())


def test_lanes_that_are_alone_keep_nobody_from_a_pass() -> None:
    async def story() -> None:
        stage = Slow()
        lanes = lanes_of(stage, 3, starts=2)
        for p in range(3):
            give(lanes, p, 0)
        await settle()
        assert stage.passes == [[0], [1], [2]]

    asyncio.run(story())


async def test_claims_of_a_partition_where_nothing_waits_are_no_failed_starts() -> None:
    store, names = Store(), Names("u")
    redis: Any = Client(store, no_gate)
    values = {k.encode(): str(v).encode() for k, v in new_head(5, "id", "layout").items()}
    store.write(names.head("events", 0), Version(0, values, {}))
    for _ in range(3):
        quiet = await Head.claim(redis, names, "events", 0, "id")
        assert quiet.starts == 1
        await commit([Commit(quiet, quiet.position, nothing_waits=True)])
        assert quiet.starts == 0
    assert [(await Head.claim(redis, names, "events", 0, "id")).starts for _ in range(2)] == [1, 2]


async def test_many_heads_are_claimed_a_few_at_a_time() -> None:
    lanes, most = Lanes(NAMES, "layout", None, None, 1000, print), 0  # type: ignore[arg-type]
    running: set[int] = set()

    async def one(i: int) -> None:
        nonlocal most
        running.add(i)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.discard(i)

    await asyncio.gather(*(lanes._one_of_few(one(i)) for i in range(200)))
    assert most <= AT_ONCE


FEED, LABELS, FIRST, SECOND = "feed", "labels", "first", "second"


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


async def test_blocks_that_we_sent_are_applied_without_a_fetch() -> None:
    story = Story()
    await story.acknowledged(FIRST, 5, b"a", b"b")
    assert story.got(FIRST) == [(5, b"a"), (6, b"b")]
    assert story.consumer.at == {TP(FIRST, 0): 7}


async def test_blocks_that_came_behind_somebody_else_s_wait_for_the_fetch() -> None:
    story = Story()
    await story.acknowledged(FIRST, 5, b"a")
    await story.acknowledged(FIRST, 7, b"c")
    assert story.next_offset(FIRST) == 6
    assert not story.consumer.at
    await story.fetched(TP(FIRST, 0), 6, b"b", b"c")
    assert story.next_offset(FIRST) == 8
    await story.acknowledged(FIRST, 8, b"d")
    assert story.consumer.at == {TP(FIRST, 0): 9}


async def test_what_a_fetch_brings_again_is_dropped_and_so_is_what_it_brought_before() -> None:
    story = Story()
    for stage in story.stages:
        stage.going_on.set()
    await story.acknowledged(FIRST, 5, b"a")
    await story.fetched(TP(FIRST, 0), 5, b"a", b"b")
    await story.acknowledged(FIRST, 6, b"b")
    assert story.got(FIRST) == [(5, b"a"), (6, b"b")]
    assert story.consumer.at == {TP(FIRST, 0): 7}


async def test_a_full_lane_takes_nothing_and_its_partition_is_fetched_when_it_is_let_go() -> None:
    story = Story()
    await story.acknowledged(FIRST, 5, *[b"x"] * (LANE_RECORDS + 1))
    assert story.consumer.full == [TP(FIRST, 0)]
    await story.acknowledged(FIRST, 5 + LANE_RECORDS + 1, b"y")
    assert story.next_offset(FIRST) == 5 + LANE_RECORDS + 1
    assert not story.consumer.at


@pytest.mark.parametrize(
    ("others", "by_hand"),
    [
        ([], {FIRST, SECOND}),
        ([TP(FEED, 1)], {SECOND}),
        ([TP(LABELS, 0)], {SECOND}),
        ([TP(FIRST, 1)], {FIRST}),
        ([TP(SECOND, 1)], {FIRST, SECOND}),
    ],
)
async def test_where_another_worker_writes_too_everything_is_fetched(others: list[TP], by_hand: set[str]) -> None:
    story = Story(*others)
    for topic in (FIRST, SECOND):
        await story.acknowledged(topic, 5, b"a")
        assert (TP(topic, 0) in story.consumer.at) == (topic in by_hand)


async def test_partitions_that_come_and_go_decide_anew_who_writes_alone() -> None:
    story = Story(TP(FEED, 1))
    await story.acknowledged(FIRST, 5, b"a")
    assert story.got(FIRST) == []
    story.open(TP(FEED, 1))
    await story.acknowledged(FIRST, 5, b"a")
    assert story.consumer.at == {TP(FIRST, 0): 6}
    await story.lanes.release({TP(LABELS, 1)})
    assert not story.consumer.at, "from now on it is fetched with each poll"
    await story.acknowledged(FIRST, 6, b"b")
    assert story.next_offset(FIRST) == 6


async def test_blocks_of_a_partition_that_was_revoked_are_dropped() -> None:
    story = Story()
    await story.acknowledged(FIRST, 5, b"a")
    releasing = asyncio.ensure_future(story.lanes.release({TP(FIRST, 0), TP(FIRST, 1)}))
    await settle()
    await story.acknowledged(FIRST, 6, b"b")  # while what is being applied is finished
    story.stages[2].going_on.set()
    await releasing
    await story.acknowledged(FIRST, 6, b"b")
    assert story.got(FIRST) == [(5, b"a")]
    assert story.consumer.at == {TP(FIRST, 0): 6}


async def test_an_acknowledgement_that_does_not_say_where_hands_nothing_on() -> None:
    """Of a batch that was sent twice."""
    story = Story()
    story.open(TP(FIRST, 0), position=0)
    await story.acknowledged(FIRST, -1, b"a", b"b")
    assert story.got(FIRST) == []
