"""Blocks that this worker sent to itself: applied without a fetch, where nobody else writes."""

from __future__ import annotations

import asyncio

import pytest
from faust.types import TP

from stream.lane import LANE_RECORDS
from tests.unit.lane_cases import FEED, FIRST, LABELS, SECOND, Story, settle


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
