"""A Redis that takes no writes is like one that is away: a commit waits, and is done once when there is room again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from ops.local import Services
from riskflow.names import Names
from riskflow.state import new_head
from stream.head import Commit, Head, commit
from tests import support

pytestmark = pytest.mark.services
NAMES = Names("card_fraud", prefix="full.")


async def claimed(redis: Any) -> Head:
    await redis.hset(NAMES.head("customer_id", 0), mapping=new_head(5, "a topic", "a layout"))
    return await Head.claim(redis, NAMES, "customer_id", 0, "a topic")


async def test_a_commit_waits_while_redis_has_no_memory_left(services: Services) -> None:
    store = support.store()
    redis = Redis.from_url(services.redis_url)
    head = await claimed(redis)
    store.config_set("maxmemory", "1")
    try:
        waiting = asyncio.create_task(commit([Commit(head, 6, entities=[b"c1"], records=[b"a record"])]))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        assert store.hget(NAMES.head("customer_id", 0), "position") == b"5"
    finally:
        store.config_set("maxmemory", "0")
    await asyncio.wait_for(waiting, 10)
    assert store.hget(NAMES.head("customer_id", 0), "position") == b"6"
    assert store.hget(NAMES.records("customer_id", 0), "e:c1") == b"a record"
    await redis.aclose()


async def test_a_claim_waits_while_redis_cannot_write_its_file(services: Services) -> None:
    """As after a failed save: Redis answers MISCONF to every write."""
    store = support.store()
    redis = Redis.from_url(services.redis_url)
    await claimed(redis)
    in_the_way = services.home / "redis" / store.config_get("dbfilename")["dbfilename"]
    in_the_way.mkdir()
    store.config_set("save", "3600 1")
    try:
        store.bgsave()
        support.wait(lambda: store.info("persistence")["rdb_last_bgsave_status"] == "err", 10)
        waiting = asyncio.create_task(Head.claim(redis, NAMES, "customer_id", 0, "a topic"))
        await asyncio.sleep(1.0)
        assert not waiting.done()
    finally:
        in_the_way.rmdir()
        store.config_set("save", "")
    assert (await asyncio.wait_for(waiting, 10)).position == 5
    await redis.aclose()
