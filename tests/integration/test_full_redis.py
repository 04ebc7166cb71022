"""A Redis that refuses writes is one that is away: scoring waits, and goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from riskflow.connect import connect_async
from riskflow.names import Names
from riskflow.settings import settings
from riskflow.state import new_head
from stream import head
from stream.head import Commit, Head
from tests.support import store

pytestmark = pytest.mark.services
NAMES = Names("full")


@pytest.fixture
async def claimed(services: Any) -> AsyncIterator[Head]:
    store().hset(NAMES.head("card", 0), mapping=new_head(0, "topic", "layout"))
    client = connect_async(settings().redis_url)
    yield await Head.claim(client, NAMES, "card", 0, "topic")
    await client.aclose()
    store().delete(NAMES.head("card", 0), NAMES.records("card", 0))


async def test_a_commit_waits_while_memory_is_full(claimed: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "RETRY_S", 0.01)
    store().config_set("maxmemory", 1)
    try:
        waiting = asyncio.create_task(head.commit([Commit(claimed, 7, entities=[b"c1"], records=[b"record"])]))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert store().hget(NAMES.head("card", 0), "position") == b"0"
        assert not store().exists(NAMES.records("card", 0)), "records and head go together"
    finally:
        store().config_set("maxmemory", 0)
    await asyncio.wait_for(waiting, 10)
    assert store().hget(NAMES.head("card", 0), "position") == b"7"
    assert claimed.position == 7


async def test_a_commit_waits_while_the_disk_is_full(claimed: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis' own words for it; to fill a disk takes rights that a test does not have."""
    monkeypatch.setattr(head, "RETRY_S", 0.01)
    whole, refusals = claimed.redis.evalsha, [ResponseError("MISCONF Errors writing to the AOF file: No space left")]

    async def evalsha(*arguments: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await whole(*arguments)

    monkeypatch.setattr(claimed.redis, "evalsha", evalsha)
    await head.commit([Commit(claimed, 3)])
    assert refusals == []
    assert claimed.position == 3
