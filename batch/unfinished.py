"""Rows that a generation has taken and not finished: on its internal logs, or taken from a feed and half sent on.

A log of blocks may hold a row twice (a worker that was killed sends again); the stage applied the first of them. To
each destination a source sends its rows in order, so a row of a feed is on the log exactly if it stands at or before
the last one sent to its destination. That is true without Redis, too.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from batch.generations import base
from batch.lake import NOWHERE, ROW_KEY
from batch.read_log import read_log
from riskflow.columns import Columns, Text, concat, n_rows, partition_of, take
from riskflow.declare import TEXT, Feed
from riskflow.errors import EventRejected, NotReady
from riskflow.evaluate import DEGRADED, KIND, empty_field
from riskflow.events import Decoder, Parked
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.record_batches import Unreadable
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, ROW_BITS, log_columns, row_position
from riskflow.wire import decode

Range = tuple[int, int]


def keys(columns: Columns) -> pl.DataFrame:
    """Where each row stands in its feed."""
    return pl.DataFrame({name: np.asarray(columns[name]).astype(np.int64) for name in ROW_KEY})


def full(plan: Plan, columns: Columns) -> Columns:
    """A block with every column that a fold wants; what it does not have yet is missing."""
    n = n_rows(columns)
    out = dict(columns)
    for entity in plan.entities:
        out.setdefault(entity, empty_field(TEXT, n))
        log, part = log_columns(entity)
        out.setdefault(log, np.full(n, -1, np.int64))
        out.setdefault(part, np.full(n, NOWHERE, np.int32))
    for name, kind in plan.fields.items():
        out.setdefault(name, empty_field(kind.kind, n))
    for name in plan.features:
        out.setdefault(name, np.full(n, np.nan))
    degraded = out.get(DEGRADED, Text.of([b""] * n))
    return {**base(plan, out), DEGRADED: degraded}


def on_logs(
    plan: Plan, names: Names, kafka: str, ranges: dict[tuple[str, int], Range], finished: Columns, parked: list[Columns]
) -> Columns | None:
    """Rows on internal logs that are not finished, each once, with its positions in all logs that it has reached.

    parked: blocks that were taken out of a log and may have expired there.
    """
    seen = keys(finished).with_columns(done=True)
    found: list[Columns] = []
    for entity in reversed(plan.entities):  # a later log knows the positions in the earlier ones
        blocks = [*_blocks(plan, entity, names.by(entity), kafka, ranges), *parked]
        parked = []
        if not blocks:
            continue
        rows = concat([full(plan, b) for b in blocks])
        new = keys(rows).with_row_index("row").join(seen, on=ROW_KEY, how="left", nulls_equal=True)
        new = new.filter(pl.col("done").is_null()).unique(ROW_KEY, keep="first", maintain_order=True)
        if len(new):
            found.append(take(rows, new["row"].to_numpy().astype(np.int64)))
            seen = pl.concat([seen, new.select(ROW_KEY).with_columns(done=True)])
    return concat(found) if found else None


def _blocks(plan: Plan, entity: str, topic: str, kafka: str, ranges: dict[tuple[str, int], Range]) -> list[Columns]:
    mine = {p: r for (t, p), r in ranges.items() if t == topic and r[0] < r[1]}
    out: dict[int, list[Columns]] = defaultdict(list)
    for partition, records, _, _ in read_log(kafka, topic, mine) if mine else ():
        out[partition] += [located(entity, partition, r.offset, r.value) for r in records]
    return [b for p in sorted(out) for b in out[p]]


def located(entity: str, partition: int, offset: int, value: bytes) -> Columns:
    """A block's rows with their positions in this log; raises NotReady for what the log's disk has lost."""
    if isinstance(value, Unreadable):
        raise NotReady(f"log of {entity}, partition {partition}: {value.why}. Let a replica that is whole lead it.")
    columns, _ = decode(value)
    log, part = log_columns(entity)
    columns[log] = row_position(offset) + np.arange(n_rows(columns), dtype=np.int64)
    columns[part] = np.full(n_rows(columns), partition, np.int32)
    return columns


# ---- what intake had begun -------------------------------------------------------------------------------------------


@dataclass
class Taken:
    """Where intake goes on, and what it had decided but not sent everywhere."""

    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    rows: list[Columns] = field(default_factory=list)
    rejected: list[tuple[int, Any, EventRejected, Feed]] = field(default_factory=list)


class HalfSent:
    """Finds rows of a feed's partition that were sent to some destinations and not to all of them."""

    def __init__(self, plan: Plan, kafka: str, partitions: int, rows: Columns, hash_key: bytes, skip: set[Any]) -> None:
        self.plan, self.kafka, self.partitions, self._hash_key, self._skip = plan, kafka, partitions, hash_key, skip
        self._sent = _last_sent(plan, rows)
        self.taken = Taken()

    def find(self, feed: Feed, topic: str, partition: int, log: Range, position: int | None, begin: int) -> None:
        """position: the head's, None when there is no trusted one; then everything from `begin` on is looked at."""
        kind = self.plan.kind(feed.name)
        last = [self._sent.get((kind, partition, d), -1) for d in range(self.partitions)]
        complete = position if position is not None else max(begin, (min(last) + 1) >> ROW_BITS)
        goes_on = min(max(complete, (max(last) >> ROW_BITS) + 1, log[0]), max(log[1], complete))
        self.taken.positions[feed.name, partition] = goes_on
        todo = (max(complete, log[0]), goes_on)
        if todo[0] < todo[1]:
            self._decode(feed, topic, partition, todo, np.array(last))

    def _decode(self, feed: Feed, topic: str, partition: int, todo: Range, last: Any) -> None:
        decoder = Decoder(self.plan, feed, self._hash_key)
        rows, offsets = [], []
        for _, records, _, _ in read_log(self.kafka, topic, {partition: todo}):
            for record in records:
                if (feed.name, partition, record.offset) in self._skip:
                    continue
                try:
                    rows.append(decoder.message(record.value, record.timestamp))
                    offsets.append(record.offset)
                except EventRejected as error:
                    self.taken.rejected.append((partition, record, error, feed))
                except Parked:
                    continue
        if rows:
            self._keep(decoder.columns(rows), np.array([row_position(o) for o in offsets], np.int64), partition, last)

    def _keep(self, columns: Columns, positions: Any, partition: int, last: Any) -> None:
        columns[INTAKE_LOG] = positions
        columns[INTAKE_PARTITION] = np.full(len(positions), partition, np.int32)
        ids: Any = columns[self.plan.entities[0]]
        unsent = np.flatnonzero(positions > last[partition_of(ids, self.partitions)])
        if len(unsent):
            self.taken.rows.append(full(self.plan, take(columns, unsent)))


def _last_sent(plan: Plan, rows: Columns) -> dict[tuple[int, int, int], int]:
    """(feed, its partition, destination) -> the last position that was sent there."""
    part = np.asarray(rows[log_columns(plan.entities[0])[1]]).astype(np.int64)
    frame = keys(rows).with_columns(to=part).filter(pl.col("to") >= 0)
    last = frame.group_by(KIND, INTAKE_PARTITION, "to").agg(pl.col(INTAKE_LOG).max())
    return {(k, p, d): at for k, p, d, at in last.iter_rows()}


__all__ = ["HalfSent", "Taken", "full", "keys", "located", "on_logs"]
