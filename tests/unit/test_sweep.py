"""When a worker looks for the dead: where nothing waits, once round, and again when the watermark has moved on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError, ResponseError

from riskflow.names import Names
from riskflow.state import WATERMARK, new_head
from stream.head import SHA, Commit, Head, commit
from stream.sweep import Sweep
from tests.model.store import Client, Store, Version
from tests.unit.kernel_cases import plan_of
from tests.unit.lane_cases import Slow, give, lanes_of, no_gate, settle

PLAN, NAMES = plan_of(), Names("tried")


class Redis:
    """Answers what it is told to, and remembers the cursors that it was asked for."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def evalsha(self, _sha: str, _keys: int, key: str, _records: str, *arguments: int) -> Any:
        self.asked.append((key, arguments[2]))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def head(redis: Redis, partition: int = 0, stage: str = "card", watermark: int = 9) -> Any:
    keys = [f"{stage} {partition}", "records"]
    return SimpleNamespace(
        redis=redis, stage=stage, partition=partition, epoch=1, position=5, watermark=watermark, keys=keys
    )


def sweep(*heads: Any) -> Sweep:
    return Sweep(PLAN, SimpleNamespace(at_rest=lambda: heads), 1.0)


async def test_partitions_take_turns_and_each_is_gone_through_once_step_by_step() -> None:
    redis = Redis([1, b"7", 2], [1, b"9", 1], [1, b"0", 0], [1, b"0", 1])
    made = sweep(head(redis), head(redis, 1))
    for _ in range(6):
        await made.step()
    assert redis.asked == [("card 0", 0), ("card 1", 0), ("card 0", 7), ("card 1", 9)]


async def test_none_waits_for_ever_for_one_that_begins_again_and_again() -> None:
    """Where a round takes longer than a day, or an answer says each time that the partition has moved on."""
    redis = Redis([1, b"0", 0], [0, b"3", b"5"], [1, b"0", 0], [0, b"3", b"5"], [1, b"0", 0])
    busy = head(redis)
    made = sweep(busy, head(redis, 1, watermark=8), head(redis, 2))
    for _ in range(5):
        await made.step()
        busy.watermark += 1
    assert [key for key, _ in redis.asked] == ["card 0", "card 1", "card 2", "card 0", "card 1"]


async def test_it_is_gone_through_again_when_its_watermark_has_moved_on_or_it_was_claimed_again() -> None:
    redis = Redis(*[[1, b"0", 0]] * 3)
    one = head(redis)
    made = sweep(one)
    for change in ({}, {"position": 6}, {"watermark": 10}, {}, {"epoch": 2}):
        vars(one).update(change)
        await made.step()
    assert len(redis.asked) == 3


async def test_feeds_have_no_records_to_look_at() -> None:
    redis = Redis()
    await sweep(head(redis, stage="payments")).step()
    assert redis.asked == []


@pytest.mark.parametrize("nothing", [ConnectionError("away"), [0, b"3", b"5"]])
async def test_who_gets_no_answer_or_is_not_the_owner_asks_the_same_again(nothing: Any) -> None:
    redis = Redis([1, b"7", 0], nothing, [1, b"0", 0])
    made = sweep(head(redis))
    for _ in range(4):
        await made.step()
    assert [cursor for _, cursor in redis.asked] == [0, 7, 7]


async def test_what_is_not_expected_is_raised() -> None:
    with pytest.raises(ResponseError):
        await sweep(head(Redis(ResponseError("of the script")))).step()


async def test_a_sweep_that_is_switched_off_ends_at_once() -> None:
    await asyncio.wait_for(Sweep(PLAN, SimpleNamespace(at_rest=list), 0.0).watch(), 1)


async def test_only_partitions_are_at_rest_in_which_nothing_waits_and_nothing_is_applied() -> None:
    stage = Slow()
    lanes = lanes_of(stage, 3)
    assert [h.partition for h in lanes.at_rest()] == [0, 1, 2]
    give(lanes, 1, 0)
    await settle()
    assert [h.partition for h in lanes.at_rest()] == [0, 2]
    give(lanes, 1, 1)
    give(lanes, 2, 0)
    lanes._lanes[next(tp for tp in lanes._lanes if tp.partition == 0)].head.ended = True
    assert [h.partition for h in lanes.at_rest()] == []
    for _ in range(2):
        for ending in stage.ending:
            ending.set()
        await settle()


async def test_a_watermark_is_committed_with_the_records_and_a_head_without_one_has_seen_no_day() -> None:
    store, key = Store(), NAMES.head("card", 0)
    values = {name: value for name, value in new_head(5, "id", "layout").items() if name != WATERMARK}
    store.write(key, Version(0, {k.encode(): str(v).encode() for k, v in values.items()}, {}))
    store.scripts.update(SHA.values())
    client: Any = Client(store, no_gate)
    one = await Head.claim(client, NAMES, "card", 0, "id")
    assert one.watermark == 0
    await commit([Commit(one, 6, watermark=20_000, entities=[b"c"], records=[b"\3\xa0\x9c\1\0"])])
    await commit([Commit(one, 7)])
    again = await Head.claim(client, NAMES, "card", 0, "id")
    assert one.watermark == again.watermark == 20_000


async def test_a_worker_that_has_lost_the_partition_deletes_nothing() -> None:
    store, key = Store(), NAMES.head("card", 0)
    stored = {k.encode(): str(v).encode() for k, v in new_head(5, "id", "layout", 20_000).items()}
    store.write(key, Version(0, stored, {b"e:c": b"\3\5\0"}))
    store.scripts.update(SHA.values())
    client: Any = Client(store, no_gate)
    one = await Head.claim(client, NAMES, "card", 0, "id")
    two = await Head.claim(client, NAMES, "card", 0, "id")
    await sweep(one).step()
    assert store.now(key).records  # type: ignore[union-attr]
    await sweep(two).step()
    assert not store.now(key).records  # type: ignore[union-attr]
