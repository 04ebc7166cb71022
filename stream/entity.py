"""A stage of one entity: blocks in, records loaded, rows observed, what has become known sent on, all committed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import msgspec
import numpy as np

from riskflow import evaluate
from riskflow.columns import Columns, concat, n_rows, partition_of
from riskflow.declare import NUMBER, TEXT
from riskflow.errors import EventRejected
from riskflow.evaluate import ID, Failures
from riskflow.names import Names
from riskflow.plan import Plan, Stage
from riskflow.state import HELD, INTAKE_LOG, INTAKE_PARTITION, ROW_BITS, log_columns
from stream import blocks, head, metrics
from stream.batch import Batch, Sent
from stream.faults import reached
from stream.outbox import Outbox, rejection
from stream.transport import Producer

# The first one with that id counts; the later one is shown to people.
OTHER_CONTENT = "an event with this id and other content came before"


class Next(Protocol):
    """What is done with observed rows: sent to the next entity, or scored."""

    topic: str  # of the next entity; empty for the last one

    async def ready(self, work: Sequence[Batch]) -> None: ...

    async def send(self, work: Sequence[Batch], columns: Columns, sent: Sent, outbox: Outbox) -> None: ...


class EntityStage:
    """Applies blocks of one entity's internal topic."""

    internal = True

    def __init__(self, plan: Plan, stage: Stage, names: Names, producer: Producer, following: Next) -> None:
        self.plan, self.stage, self.names, self.producer, self.following = plan, stage, names, producer, following
        self.name, self.topic = stage.entity.field, names.by(stage.entity.field)
        self.onward = following.topic
        self._part = log_columns(self.name)[1]
        self._travels = travelling(plan, stage)

    async def apply(self, work: Sequence[Batch]) -> None:
        """Everything from blocks to commit; the batches are of different partitions."""
        await self.following.ready(work)
        outbox = Outbox(self.producer)
        commits = [head.Commit(b.head, b.end, dict(b.head.applied), dict(b.head.sent)) for b in work]
        fresh = self._fresh(work, commits, outbox)
        reached("after_decode")
        if fresh:
            await self._apply(work, commits, concat(with_held(fresh)), outbox)
        await outbox.acknowledged()
        reached("after_send")
        if not self.onward:
            reached("scores_acknowledged")
        await head.commit(commits)
        reached("after_commit")

    async def _apply(self, work: Sequence[Batch], commits: list[head.Commit], columns: Columns, outbox: Outbox) -> None:
        entities, slots = evaluate.entities_of(self.stage, columns)
        mine = self._owned(commits, columns, slots, len(entities))
        found = await head.load([(c.head, [entities[i] for i in rows]) for c, rows in zip(commits, mine, strict=True)])
        reached("after_load")
        loaded: list[bytes | None] = [None] * len(entities)
        for rows, records in zip(mine, found, strict=True):
            for i, record in zip(rows, records, strict=True):
                loaded[i] = record
        seen = self._observe(columns, slots, loaded, {c.head.partition: c.head.watermark for c in commits})
        for commit, rows in zip(commits, mine, strict=True):
            commit.watermark = seen.watermarks.get(commit.head.partition)
            commit.entities, commit.records = [entities[i] for i in rows], [seen.records[i] for i in rows]
        self._refuse(columns, seen.conflicts, "id_conflict", OTHER_CONTENT, outbox)
        if n_rows(seen.columns):
            sent = {c.head.partition: c.sent for c in commits if c.sent is not None}  # moved forward by what is sent
            await self.following.send(work, seen.columns, sent, outbox)

    def _owned(self, commits: list[head.Commit], columns: Columns, slots: Any, entities: int) -> list[list[int]]:
        """For each partition the numbers of its entities: an entity is in one partition only."""
        if len(commits) == 1:
            return [list(range(entities))]
        there = slots >= 0
        owner = np.full(entities, -1, np.int64)
        part: Any = columns[self._part]
        owner[slots[there]] = part[there]
        return [np.flatnonzero(owner == c.head.partition).tolist() for c in commits]

    def _fresh(self, work: Sequence[Batch], commits: Sequence[head.Commit], outbox: Outbox) -> list[Columns]:
        """The rows not applied before; those of a block that was parked by hand are rejected."""
        found = [
            (record.offset in batch.head.parked, blocks.Found(batch.head.partition, record.offset, record.value or b"",
                                                              commit.applied))
            for batch, commit in zip(work, commits, strict=True)
            for record in batch.records
        ]  # fmt: skip
        fresh: list[Columns] = []
        for parked, run in groupby(found, key=itemgetter(0)):
            if parked:
                for _, block in run:
                    self._park(block, outbox)
            else:
                fresh += [self._aligned(c) for c in blocks.received(self.name, [block for _, block in run])]
        return fresh

    def _park(self, block: blocks.Found, outbox: Outbox) -> None:
        try:
            tables = blocks.received(self.name, [block])
        except (TypeError, ValueError, KeyError):
            return  # not one of our blocks: it holds no rows, and a missing one of ours shows as a gap
        for columns in tables:
            detail = "taken out by hand with `riskflow park`"
            self._refuse(columns, range(n_rows(columns)), "parked", detail, outbox)

    def _aligned(self, columns: Columns) -> Columns:
        """The columns that this plan knows: a block may have been written before a field or feature was added."""
        out = {name: c for name, c in columns.items() if name in self._travels or name.startswith("_")}
        for name, kind in self._travels.items():
            if name not in out:
                out[name] = evaluate.empty_field(kind, n_rows(columns))
        return out

    def _observe(
        self, columns: Columns, slots: Any, loaded: list[bytes | None], watermarks: dict[int, int]
    ) -> evaluate.Observation:
        failures = Failures()
        if self.stage.index == 0:
            evaluate.start(self.plan, columns, failures)
        seen = evaluate.observe(self.plan, self.stage, columns, slots, loaded, watermarks, failures)
        metrics.DUPLICATES.labels(self.plan.name).inc(seen.duplicates)
        metrics.LATE.labels(self.plan.name, self.name).inc(seen.late)
        for function, rows in failures.counts.items():
            metrics.FAILURES.labels(self.plan.name, function).inc(rows)
        return seen

    def _refuse(self, columns: Columns, rows: Any, kind: str, detail: str, outbox: Outbox) -> None:
        held: Any = columns.get(HELD)
        for row in rows:
            if held is None or not held[row]:
                reject_row(self.plan, self.names, columns, int(row), kind, detail, self.name, outbox)


def with_held(tables: list[Columns]) -> list[Columns]:
    """Where some rows are another generation's to score, all tables say so of theirs."""
    if not any(HELD in table for table in tables):
        return tables
    return [{HELD: np.zeros(n_rows(table), np.int8), **table} for table in tables]


def travelling(plan: Plan, stage: Stage) -> dict[str, str]:
    """Name -> kind of every column that reaches a stage, bookkeeping aside."""
    fields = {name: kind.kind for name, kind in plan.fields.items()}
    known = [f for f in plan.features if plan.nodes[f].stage < stage.index and stage.index > 0]
    return {evaluate.TIME: NUMBER, **dict.fromkeys(plan.entities, TEXT), **fields, **dict.fromkeys(known, NUMBER)}


def reject_row(
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
    outbox.reject(names.rejected, f"{feed}:{partition}:{offset}".encode(), value, headers)


class Forward:
    """Sends observed rows to the next entity's partitions."""

    def __init__(self, names: Names, this: Stage, following: Stage, partitions: int) -> None:
        log, part = log_columns(this.entity.field)
        self._to, self._partitions = following.entity.field, partitions
        self.topic = names.by(self._to)
        self._onward = blocks.Onward(this.entity.field, part, log, self._to, self.topic)

    async def ready(self, work: Sequence[Batch]) -> None:
        """A stage that only forwards needs nothing beyond its heads."""

    async def send(self, work: Sequence[Batch], columns: Columns, sent: Sent, outbox: Outbox) -> None:
        ids: Any = columns[self._to]
        await self._onward.send(columns, partition_of(ids, self._partitions), sent, outbox)
