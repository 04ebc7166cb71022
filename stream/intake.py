"""The first stage of a feed: messages become rows, rows become blocks for the first entity's partitions.

The cost of a message is paid once, here. What cannot be taken goes to `rejected` with the reason; nothing else stops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from riskflow.columns import Columns, Text, partition_of, take
from riskflow.declare import Feed
from riskflow.errors import EventRejected
from riskflow.events import Decoder, Parked
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, row_position, source_name
from stream import blocks, metrics
from stream.faults import reached
from stream.head import Head
from stream.outbox import Outbox, rejection
from stream.transport import Producer, Records

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
        self._partitions = partitions

    async def apply(self, head: Head, records: Records) -> None:
        """Decodes, sends, commits."""
        outbox = Outbox(self.producer)
        rows, offsets = await self._decode(head, records, outbox)
        reached("after_decode")
        await head.load([])  # still mine? so that what is sent comes from the owner's position
        reached("after_load")
        sent = dict(head.sent)
        if rows:
            await self._send(head, self._columns(head, rows, offsets), sent, outbox)
        await outbox.acknowledged()
        reached("after_send")
        await head.commit(records[-1].offset + 1, sent=sent)
        reached("after_commit")

    async def _decode(self, head: Head, records: Records, outbox: Outbox) -> tuple[list[Any], list[int]]:
        rows, offsets = [], []
        decode = self._decoder.row
        for record in records:
            try:
                if record.offset in head.parked:
                    raise EventRejected("parked", "taken out by hand with `riskflow park`")
                rows.append(decode(record.value, record.timestamp))
                offsets.append(record.offset)
            except EventRejected as error:
                await self._reject(head, record, error, outbox)
            except Parked:
                metrics.PARKED.labels(self.plan.name).inc()
        return rows, offsets

    def _columns(self, head: Head, rows: list[Any], offsets: list[int]) -> Columns:
        columns = self._decoder.columns(rows)
        columns[INTAKE_LOG] = np.array([row_position(o) for o in offsets], np.int64)
        columns[INTAKE_PARTITION] = np.full(len(rows), head.partition, np.int32)
        return columns

    async def _send(self, head: Head, columns: Columns, sent: dict[str, int], outbox: Outbox) -> None:
        ids: Any = columns[self._first]
        source, topic = source_name(self.name, head.partition), self.names.by(self._first)
        for partition, rows in blocks.by_destination(partition_of(ids, self._partitions)):
            part = take(columns, rows)
            key = source_name(self._first, partition)
            positions: Any = part[INTAKE_LOG]
            parts = blocks.cut(part, source=source, by=INTAKE_LOG, after=sent.get(key, -1), epoch=head.epoch)
            await outbox.send(topic, partition, [(None, block) for block in parts])
            sent[key] = int(positions[-1])

    async def _reject(self, head: Head, record: Any, error: EventRejected, outbox: Outbox) -> None:
        metrics.REJECTED.labels(self.plan.name, self.name, error.kind).inc()
        key = f"{self.name}:{head.partition}:{record.offset}".encode()
        headers = rejection(error, self.name, self.topic, head.partition, record.offset)
        # The whole message stands at its position; a compressed one may be larger than any record here can be.
        await outbox.send(self.names.rejected, 0, [(key, (record.value or b"")[:REJECTED_BYTES])], headers)


def id_texts(column: Any) -> list[str]:
    """Ids for people and JSON; a missing one is an empty string."""
    assert isinstance(column, Text)
    return [v or "" for v in column.strings()]
