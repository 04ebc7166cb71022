"""The first stage of a feed: messages become rows, rows become blocks for the first entity's partitions.

The cost of a message is paid once, here. What cannot be taken goes to `rejected` with the reason; nothing else stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from riskflow.columns import Columns, Text, partition_of
from riskflow.declare import Feed
from riskflow.errors import EventRejected
from riskflow.events import Decoder, Parked
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.record_batches import first_offset
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, row_position
from stream import blocks, head, metrics
from stream.batch import Batch, Sent
from stream.faults import reached
from stream.head import Head
from stream.outbox import Outbox, rejection
from stream.transport import Producer

REJECTED_BYTES = 1 << 20


class Intake:
    """Applies fetches of one feed's topic. Keeps no records: its head alone says how far it is."""

    internal = False

    def __init__(
        self, plan: Plan, feed: Feed, names: Names, producer: Producer, partitions: int, hash_key: bytes = b""
    ) -> None:
        self.plan, self.feed, self.names, self.producer = plan, feed, names, producer
        self.name, self.topic = feed.name, names.feed(feed.name)
        self._decoder = Decoder(plan, feed, hash_key)
        self._first = plan.usecase.entities[0].field
        self.onward = names.by(self._first)
        self._partitions = partitions
        self._onward = blocks.Onward(self.name, INTAKE_PARTITION, INTAKE_LOG, self._first, self.onward)

    async def apply(self, work: Sequence[Batch]) -> None:
        """Decodes, sends, commits; the batches are of different partitions."""
        outbox = Outbox(self.producer)
        rows: list[Any] = []
        positions: list[int] = []
        counts: list[int] = []
        for batch in work:
            before = len(rows)
            self._decode(batch, rows, positions, outbox)
            counts.append(len(rows) - before)
        reached("after_decode")
        await head.load(
            [(b.head, ()) for b in work]
        )  # still mine? so that what is sent comes from the owner's position
        reached("after_load")
        sent = {b.head.partition: dict(b.head.sent) for b in work}
        if rows:
            parts = np.repeat([b.head.partition for b in work], counts).astype(np.int32)
            await self._send(self._columns(rows, positions, parts), sent, outbox)
        await outbox.acknowledged()
        reached("after_send")
        await head.commit([head.Commit(b.head, b.end, sent=sent[b.head.partition]) for b in work])
        reached("after_commit")

    def _decode(self, batch: Batch, rows: list[Any], positions: list[int], outbox: Outbox) -> None:
        decode = self._decoder.message
        for record in batch.records:
            try:
                if record.offset in batch.head.parked:
                    raise EventRejected("parked", "taken out by hand with `riskflow park`")
                rows.append(decode(record.value, record.timestamp))
                positions.append(row_position(record.offset))
            except EventRejected as error:
                self._reject(batch.head, record, error, outbox)
            except Parked:
                metrics.PARKED.labels(self.plan.name).inc()

    def _columns(self, rows: list[Any], positions: list[int], parts: Any) -> Columns:
        columns = self._decoder.columns(rows)
        columns[INTAKE_LOG] = np.array(positions, np.int64)
        columns[INTAKE_PARTITION] = parts
        return columns

    async def _send(self, columns: Columns, sent: Sent, outbox: Outbox) -> None:
        ids: Any = columns[self._first]
        await self._onward.send(columns, partition_of(ids, self._partitions), sent, outbox)

    def _reject(self, of: Head, record: Any, error: EventRejected, outbox: Outbox) -> None:
        metrics.REJECTED.labels(self.plan.name, self.name, error.kind).inc()
        offset = first_offset(record)
        key = f"{self.name}:{of.partition}:{offset}".encode()
        headers = rejection(error, self.name, self.topic, of.partition, offset)
        # The whole message stands at its position; a compressed one may be larger than any record here can be.
        outbox.reject(self.names.rejected, key, (record.value or b"")[:REJECTED_BYTES], headers)


def id_texts(column: Any) -> list[str]:
    """Ids for people and JSON; a missing one is an empty string."""
    assert isinstance(column, Text)
    return [v or "" for v in column.strings()]
