"""What counts as a Redis that is away: then a worker waits; anything else ends it."""

from __future__ import annotations

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from stream.head import until_answered


def once(error: Exception) -> object:
    """A call that fails the first time."""
    left = [error]

    async def call() -> str:
        if left:
            raise left.pop()
        return "answered"

    return call


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
        AttributeError("'NoneType' object has no attribute 'writelines'"),
        ResponseError("Command # 1 of pipeline caused error: MISCONF Errors writing to the AOF file"),
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'"),
    ],
)
async def test_a_worker_waits_for_a_redis_that_was_reset_or_takes_no_writes(error: Exception) -> None:
    assert await until_answered(once(error)) == "answered"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a mistake of ours"), AttributeError("'Head' has no 'x'"), ResponseError("WRONGTYPE of a key")],
)
async def test_a_mistake_is_no_outage(error: Exception) -> None:
    with pytest.raises(type(error)):
        await until_answered(once(error))
