"""Which lanes a pass takes, and when the next one begins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faust.types import TP

from riskflow.names import Names
from riskflow.state import new_head
from stream.head import Commit, Head, commit
from stream.lane import BATCH_BYTES
from stream.lanes import AT_ONCE, MUCH_BYTES, Lanes
from tests.model.store import Client, Store, Version
from tests.unit.lane_cases import FEED, FIRST, LABELS, SECOND, Slow, Story, give, lanes_of, no_gate, settle


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
    lanes, most = Lanes(Names("u"), "layout", None, None, 1000, print), 0  # type: ignore[arg-type]
    running: set[int] = set()

    async def one(i: int) -> None:
        nonlocal most
        running.add(i)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.discard(i)

    await asyncio.gather(*(lanes._one_of_few(one(i)) for i in range(200)))
    assert most <= AT_ONCE
