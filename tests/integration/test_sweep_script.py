"""The script that deletes dead records, on a real Redis: what it takes for dead is what the kernel takes for dead."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from ops.local import Services
from riskflow.names import Names
from riskflow.state import new_head
from riskflow.windows import dead
from stream.head import SWEEP, Head, run_script, until_answered
from tests.unit.kernel_cases import plan_of

pytestmark = pytest.mark.services
NEWEST = 20_000  # days: two bytes and a bit, as those of our years


def record(touched: int) -> bytes:
    """The front of one: its version, and a varint."""
    out = [3]
    while touched > 127:
        out.append(touched % 128 + 128)
        touched //= 128
    return bytes([*out, touched, 0])


async def test_the_script_deletes_exactly_what_the_kernel_takes_for_dead(services: Services) -> None:
    stage, names = plan_of().stages[0], Names("swept")
    days = [0, 127, 128, *range(NEWEST - stage.layout.live_days - 2, NEWEST - stage.layout.live_days + 3), NEWEST]
    records = {f"e:{day}": record(day) for day in days}
    gone = dead(stage.layout, list(records.values()), NEWEST).tolist()
    redis: Any = Redis.from_url(services.redis_url)
    await redis.hset(names.head("card", 0), mapping=new_head(5, "id", "layout", NEWEST))
    await redis.hset(names.records("card", 0), mapping=records)
    head = await Head.claim(redis, names, "card", 0, "id")
    call = [(head.keys, [head.epoch, head.position, 0, stage.layout.live_days, 200])]
    [answer] = await until_answered(lambda: run_script(redis, SWEEP, call))
    left = {field.decode() for field in await redis.hkeys(names.records("card", 0))}
    await redis.delete(*head.keys)
    await redis.aclose()
    assert answer == [1, b"0", sum(gone)]
    assert left == {field for field, is_gone in zip(records, gone, strict=True) if not is_gone}
    assert 0 < len(left) < len(records)
