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
from stream.head import Head
from stream.lane import LANE_RECORDS, Lane
from stream.lanes import Lanes
from tests.model.store import Client, Store, Version
from tests.unit.lane_cases import ONE, FakeConsumer, Slow, no_gate, records, settle, span


def lane(internal: bool = False, starts: int = 0) -> Lane:
    stage: Any = SimpleNamespace(name="events", topic="t", internal=internal)
    head: Any = SimpleNamespace(position=10, starts=starts, parked=[], behind=None, ended=False)
    return Lane(stage, head, TP("t", 0), 1000, FakeConsumer())  # type: ignore[arg-type]


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
