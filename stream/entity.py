"""A stage of one entity: blocks in, records loaded, rows observed, what has become known sent on, all committed."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from riskflow import evaluate
from riskflow.columns import Columns, concat, n_rows, partition_of, take
from riskflow.declare import NUMBER, TEXT
from riskflow.errors import EventRejected
from riskflow.evaluate import ID, Failures
from riskflow.names import Names
from riskflow.plan import Plan, Stage
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, ROW_BITS, log_columns, source_name
from stream import blocks, metrics
from stream.faults import reached
from stream.head import Head
from stream.outbox import Outbox, rejection
from stream.transport import Producer, Records

# The first one with that id counts; the later one is shown to people.
OTHER_CONTENT = "an event with this id and other content came before"


class Onward(Protocol):
    """What is done with observed rows: sent to the next entity, or scored."""

    async def ready(self, head: Head) -> None: ...

    async def send(self, head: Head, columns: Columns, sent: dict[str, int], outbox: Outbox) -> None: ...


class EntityStage:
    """Applies blocks of one entity's internal topic."""

    internal = True

    def __init__(self, plan: Plan, stage: Stage, names: Names, producer: Producer, onward: Onward) -> None:
        self.plan, self.stage, self.names, self.producer, self.onward = plan, stage, names, producer, onward
        self.name, self.topic = stage.entity.field, names.by(stage.entity.field)
        self._travels = travelling(plan, stage)

    async def apply(self, head: Head, records: Records) -> None:
        """Everything from blocks to commit; see DESIGN's nine rules in stream/head.py."""
        await self.onward.ready(head)
        applied, sent = dict(head.applied), dict(head.sent)
        outbox, entities, packed = Outbox(self.producer), list[bytes](), list[bytes]()
        fresh = await self._fresh(head, records, applied, outbox)
        reached("after_decode")
        if fresh:
            columns = concat(fresh)
            entities, slots = evaluate.entities_of(self.stage, columns)
            loaded = await head.load(entities)
            reached("after_load")
            seen = self._observe(columns, slots, loaded)
            packed = seen.records
            await self._refuse(columns, seen.conflicts, "id_conflict", OTHER_CONTENT, outbox)
            if n_rows(seen.columns):
                await self.onward.send(head, seen.columns, sent, outbox)
        await outbox.acknowledged()
        reached("after_send")
        await head.commit(records[-1].offset + 1, applied=applied, sent=sent, entities=entities, records=packed)
        reached("after_commit")

    async def _fresh(self, head: Head, records: Records, applied: dict[str, int], outbox: Outbox) -> list[Columns]:
        """The rows not applied before, block by block; those of a block that was parked by hand are rejected."""
        fresh = []
        for record in records:
            try:
                columns = blocks.received(record.value, record.offset, self.name, head.partition, applied)
            except (TypeError, ValueError, KeyError):
                if record.offset not in head.parked:
                    raise
                continue  # not one of our blocks: it holds no rows, and a missing one of ours shows as a gap
            if columns is not None and record.offset in head.parked:
                await self._refuse(
                    columns, range(n_rows(columns)), "parked", "taken out by hand with `riskflow park`", outbox
                )
            elif columns is not None:
                fresh.append(self._aligned(columns))
        return fresh

    def _aligned(self, columns: Columns) -> Columns:
        """The columns that this plan knows: a block may have been written before a field or feature was added."""
        out = {name: c for name, c in columns.items() if name in self._travels or name.startswith("_")}
        for name, kind in self._travels.items():
            if name not in out:
                out[name] = evaluate.empty_field(kind, n_rows(columns))
        return out

    def _observe(self, columns: Columns, slots: Any, loaded: list[bytes | None]) -> evaluate.Observation:
        failures = Failures()
        if self.stage.index == 0:
            evaluate.start(self.plan, columns, failures)
        seen = evaluate.observe(self.plan, self.stage, columns, slots, loaded, failures)
        metrics.DUPLICATES.labels(self.plan.name).inc(seen.duplicates)
        metrics.LATE.labels(self.plan.name, self.name).inc(seen.late)
        for function, rows in failures.counts.items():
            metrics.FAILURES.labels(self.plan.name, function).inc(rows)
        return seen

    async def _refuse(self, columns: Columns, rows: Any, kind: str, detail: str, outbox: Outbox) -> None:
        for row in rows:
            await reject_row(self.plan, self.names, columns, int(row), kind, detail, self.name, outbox)


def travelling(plan: Plan, stage: Stage) -> dict[str, str]:
    """Name -> kind of every column that reaches a stage, bookkeeping aside."""
    fields = {name: kind.kind for name, kind in plan.fields.items()}
    known = [f for f in plan.features if plan.nodes[f].stage < stage.index and stage.index > 0]
    return {evaluate.TIME: NUMBER, **dict.fromkeys(plan.entities, TEXT), **fields, **dict.fromkeys(known, NUMBER)}


async def reject_row(
    plan: Plan, names: Names, columns: Columns, row: int, kind: str, detail: str, stage: str, outbox: Outbox
) -> None:
    """Sends one row to `rejected`, by its position in the feed's topic, where its bytes still stand."""
    metrics.REJECTED.labels(plan.name, stage, kind).inc()
    number: Any = columns[evaluate.KIND]
    feed = plan.usecase.feeds[int(number[row])].name
    log: Any = columns[INTAKE_LOG]
    part: Any = columns[INTAKE_PARTITION]
    ids: Any = columns[ID]
    offset, partition = int(log[row]) >> ROW_BITS, int(part[row])
    value = msgspec.json.encode({"id": ids.strings()[row], "feed": feed, "partition": partition, "offset": offset})
    headers = rejection(EventRejected(kind, detail), stage, names.feed(feed), partition, offset)
    await outbox.send(names.rejected, 0, [(f"{feed}:{partition}:{offset}".encode(), value)], headers)


class Forward:
    """Sends observed rows to the next entity's partitions."""

    def __init__(self, names: Names, this: Stage, following: Stage, partitions: int) -> None:
        self._by = log_columns(this.entity.field)[0]
        self._this, self._next = this.entity.field, following.entity.field
        self._topic, self._partitions = names.by(following.entity.field), partitions

    async def ready(self, head: Head) -> None:
        """A stage that only forwards needs nothing beyond its head."""

    async def send(self, head: Head, columns: Columns, sent: dict[str, int], outbox: Outbox) -> None:
        ids: Any = columns[self._next]
        source = source_name(self._this, head.partition)
        for partition, rows in blocks.by_destination(partition_of(ids, self._partitions)):
            part = take(columns, rows)
            key = source_name(self._next, partition)
            positions: Any = part[self._by]
            parts = blocks.cut(part, source=source, by=self._by, after=sent.get(key, -1), epoch=head.epoch)
            await outbox.send(self._topic, partition, [(None, block) for block in parts])
            sent[key] = int(positions[-1])
