"""Everything one batch sends: queued in order, then waited for until every record is acknowledged."""

from __future__ import annotations

import asyncio
from collections import defaultdict
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
        self._rejected: defaultdict[str, list[tuple[bytes, bytes, Headers]]] = defaultdict(list)

    async def send(
        self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes]], headers: Headers | None = None
    ) -> None:
        shared = headers or []
        self._pending += await self._producer.send_records(topic, partition, ((k, v, shared) for k, v in records))

    def reject(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Keeps a record until `acknowledged`: a topic full of garbage is sent in a few batches."""
        self._rejected[topic].append((key, value, headers))

    async def acknowledged(self) -> None:
        """Sends what was rejected and waits for everything; raises the first failure."""
        for topic, records in self._rejected.items():
            self._pending += await self._producer.send_records(topic, 0, records)
        self._rejected.clear()
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
