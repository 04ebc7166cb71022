"""Everything one batch sends: queued in order, then waited for until every record is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

from riskflow.errors import EventRejected
from stream.transport import Producer

Headers = list[tuple[str, bytes]]


class Outbox:
    """Outputs of one batch of one stage. Nothing is committed before `acknowledged` has returned."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._pending: list[Awaitable[Any]] = []

    async def send(
        self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes]], headers: Headers | None = None
    ) -> None:
        self._pending += await self._producer.send_records(topic, partition, records, headers)

    async def acknowledged(self) -> None:
        """Waits for all of them; raises the first failure."""
        pending, self._pending = self._pending, []
        if pending:
            await asyncio.gather(*pending)


def rejection(error: EventRejected, stage: str, topic: str, partition: int, offset: int) -> Headers:
    """Headers of a record on `rejected`: what was wrong, where, and where the message stands."""
    values = {
        "error-type": error.kind,
        "error-detail": error.detail,
        "error-where": error.where,
        "stage": stage,
        "source-topic": topic,
        "source-partition": str(partition),
        "source-offset": str(offset),
    }
    return [(k, v.encode(errors="replace")) for k, v in values.items()]
