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
from riskflow.state import HELD, INTAKE_LOG, INTAKE_PARTITION, row_position
from stream import blocks, gate, head, metrics
from stream.batch import Batch, Sent
from stream.faults import reached
from stream.gate import Part
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
        left = list(work)
        while left:
            parts = await gate.parts(left)  # still mine? so that what is sent comes from the owner's position
            reached("after_load")
            await self._apply(parts)
            left = [part.rest for part in parts if part.rest is not None]

    async def _apply(self, parts: Sequence[Part]) -> None:
        outbox = Outbox(self.producer)
        rows: list[Any] = []
        positions: list[int] = []
        counts: list[int] = []
        for part in parts:
            before = len(rows)
            self._decode(part, rows, positions, outbox)
            counts.append(len(rows) - before)
        reached("after_decode")
        heads = [part.batch.head for part in parts]
        sent = {h.partition: dict(h.sent) for h in heads}
        if rows:
            columns = self._columns(rows, positions)
            columns[INTAKE_PARTITION] = np.repeat([h.partition for h in heads], counts).astype(np.int32)
            if any(part.held for part in parts):
                columns[HELD] = np.repeat([part.held for part in parts], counts).astype(np.int8)
            await self._send(columns, sent, outbox)
        await outbox.acknowledged()
        reached("after_send")
        await head.commit([head.Commit(p.batch.head, p.batch.end, sent=sent[p.batch.head.partition]) for p in parts])
        reached("after_commit")

    def _decode(self, part: Part, rows: list[Any], positions: list[int], outbox: Outbox) -> None:
        decode, of = self._decoder.message, part.batch.head
        for record in part.batch.records:
            try:
                if record.offset in of.parked:
                    raise EventRejected("parked", "taken out by hand with `riskflow park`")
                rows.append(decode(record.value, record.timestamp))
                positions.append(row_position(record.offset))
            except EventRejected as error:
                if not part.held:
                    self._reject(of, record, error, outbox)
            except Parked:
                metrics.PARKED.labels(self.plan.name).inc()

    def _columns(self, rows: list[Any], positions: list[int]) -> Columns:
        columns = self._decoder.columns(rows)
        columns[INTAKE_LOG] = np.array(positions, np.int64)
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
