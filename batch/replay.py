"""History through the same kernel as the stream: entity by entity, in an order that is given.

Two orders. Rows that went through the stream are replayed in their recorded positions and give the same bits
(`recorded_orders`). History that did not is ordered by the time it was known, feeds before events, then id
(`known_order`): the same kernel, but its order is a convention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from batch.dead import first_watermarks
from riskflow import evaluate
from riskflow.columns import Columns, Text, concat, n_rows, take
from riskflow.evaluate import ID, KIND, TIME, Failures
from riskflow.plan import Plan, Stage
from riskflow.state import log_columns

Order = NDArray[np.int64]
Records = dict[bytes, bytes]
Progress = Callable[[str, int, int], None]  # what is done to rows, how many are done, of how many
CHUNK_ROWS = 262_144


@dataclass
class Replayed:
    """All rows that were not duplicates, in the last stage's order, with features; and every entity's record."""

    columns: Columns
    records: dict[str, Records]  # stage -> entity -> packed record
    watermarks: dict[str, dict[int, int]] = field(default_factory=dict)  # stage -> partition -> day
    failures: Failures = field(default_factory=Failures)
    duplicates: int = 0
    conflicts: int = 0


def replay(
    plan: Plan,
    columns: Columns,
    orders: list[Order] | None = None,
    records: dict[str, Records] | None = None,
    tell: Progress | None = None,
) -> Replayed:
    """Folds rows through every stage.

    columns: ids, times and declared fields (riskflow.evaluate). orders: for each stage, the row numbers of `columns` in
    the order of that stage's log; the order as given by default. records: where to begin; nothing is known by default.
    Rows without positions are of one partition.
    """
    out = Replayed(columns, {s.entity.field: dict((records or {}).get(s.entity.field, {})) for s in plan.stages})
    numbered = np.arange(n_rows(columns))
    for i, stage in enumerate(plan.stages):
        if orders is not None:
            rank = np.empty(n_rows(columns), np.int64)
            rank[orders[i]] = np.arange(len(orders[i]))
            sorting = np.argsort(rank[numbered], kind="stable")
            out.columns, numbered = take(out.columns, sorting), numbered[sorting]
        kept = _stage(plan, stage, out, tell)
        numbered = numbered[kept]
    return out


def known_order(columns: Columns) -> Order:
    """By time known, feeds before events, then id."""
    ids, kinds, times = columns[ID], columns[KIND], columns[TIME]
    assert isinstance(ids, Text)
    assert not isinstance(kinds, Text)
    assert not isinstance(times, Text)
    names = np.array(ids.values(), dtype=object)
    return np.lexsort((names.astype(bytes), -kinds.astype(np.int64), times))


def recorded_orders(plan: Plan, columns: Columns) -> list[Order]:
    """The order of each stage's logs, from the positions that rows carry."""
    orders = []
    for stage in plan.stages:
        log, part = (columns[c] for c in log_columns(stage.entity.field))
        orders.append(np.lexsort((np.asarray(log), np.asarray(part))))
    return orders


def _stage(plan: Plan, stage: Stage, out: Replayed, tell: Progress | None) -> Order:
    parts, kept = [], []
    records = out.records[stage.entity.field]
    watermarks = out.watermarks[stage.entity.field] = first_watermarks(stage, out.columns, records)
    n = n_rows(out.columns)
    for first in range(0, max(n, 1), CHUNK_ROWS):
        rows = np.arange(first, min(first + CHUNK_ROWS, n))
        chunk = take(out.columns, rows)
        if stage.index == 0:
            evaluate.start(plan, chunk, out.failures)
        entities, slots = evaluate.entities_of(stage, chunk)
        known = [records.get(e) for e in entities]
        seen = evaluate.observe(plan, stage, chunk, slots, known, watermarks, out.failures)
        records.update(zip(entities, seen.records, strict=True))
        watermarks.update(seen.watermarks)
        out.duplicates += seen.duplicates
        out.conflicts += len(seen.conflicts)
        parts.append(seen.columns)
        kept.append(first + seen.kept)
        if tell is not None:
            tell(f"rows through {stage.entity.field}", first + len(rows), n)
    out.columns = concat(parts)
    return np.concatenate(kept)
