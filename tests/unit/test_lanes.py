"""What a lane takes in: every offset once, and no jump that was not seen twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from riskflow.errors import Leave
from stream.lanes import LANE_RECORDS, Lane


class FakeConsumer:
    """Remembers which partitions were full."""

    def __init__(self) -> None:
        self.full: list[Any] = []

    def on_buffer_full(self, tp: Any) -> None:
        self.full.append(tp)

    def on_buffer_drop(self, tp: Any) -> None:
        self.full.remove(tp)


def lane(internal: bool = False, starts: int = 0) -> Lane:
    stage: Any = SimpleNamespace(name="events", topic="t", internal=internal)
    head: Any = SimpleNamespace(position=10, starts=starts)
    return Lane(stage, head, TP("t", 0), 1000, FakeConsumer())  # type: ignore[arg-type]


def records(*offsets: int, size: int = 1) -> list[Any]:
    return [SimpleNamespace(offset=o, value=b"x" * size) for o in offsets]


def taken(of: Lane) -> list[int]:
    return [r.offset for r in of._waiting]


def test_offsets_that_were_applied_or_wait_already_are_dropped() -> None:
    one = lane()
    assert one.put(records(8, 9, 10, 11))
    assert one.put(records(10, 11, 12))
    assert taken(one) == [10, 11, 12]


def test_a_jump_of_a_feed_is_read_again_and_taken_only_when_it_stays() -> None:
    one = lane()
    assert not one.put(records(14, 15))
    assert not one.put(records(16, 17)), "a fetch that was on its way must not pass as the repeated one"
    assert one.put(records(14, 15))
    assert taken(one) == [14, 15]


def test_what_was_only_skipped_is_there_when_it_is_read_again() -> None:
    one = lane()
    assert not one.put(records(14, 15))
    assert one.put(records(10, 11, 12, 13, 14, 15))
    assert taken(one) == [10, 11, 12, 13, 14, 15]


def test_a_jump_of_an_internal_log_ends_the_worker() -> None:
    with pytest.raises(Leave, match="was expected"):
        lane(internal=True).put(records(12))


def test_a_full_lane_is_not_fetched_until_it_is_half_empty() -> None:
    one = lane()
    consumer: Any = one._consumer
    one.put(records(*range(10, 10 + LANE_RECORDS + 1)))
    assert consumer.full
    while consumer.full:
        one._take()
    assert 0 < len(one._waiting) < LANE_RECORDS


def test_a_lane_is_full_by_bytes_too() -> None:
    one = lane(internal=True)
    one.put(records(*range(10, 90), size=512 * 1024))
    consumer: Any = one._consumer
    assert consumer.full


def test_a_lane_that_started_again_and_again_goes_record_by_record() -> None:
    one = lane(starts=3)
    one.put(records(10, 11, 12))
    assert [r.offset for r in one._take()] == [10]
