"""What goes on into the next generation: the rows that the last stage has not finished, as blocks of its new log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from batch.fold import Folded, features_before
from batch.generations import base
from batch.lake import CARRIED
from batch.parked import Parked
from riskflow.columns import Columns, n_rows, take
from riskflow.evaluate import DEGRADED, ID, KIND, TIME
from riskflow.plan import Plan
from riskflow.state import BLOCK_ROWS, INTAKE_LOG, INTAKE_PARTITION, log_columns, source_name
from riskflow.wire import encode

REBUILD = "rebuild"  # the source of these rows, where another stage would have sent them


def pending_rows(plan: Plan, rows: Columns, folded: Folded, finished: int, parked: Parked) -> Any:
    """Rows that the last stage must still take, in the order of its log; those new to it come after."""
    log, part = (np.asarray(rows[c]) for c in log_columns(plan.entities[-1]))
    last: dict[int, int] = {}
    for p in np.unique(part[:finished]).tolist():
        last[p] = int(log[:finished][part[:finished] == p].max())
    before = _before_last(plan, rows, folded)
    taken_out = parked.stopped(plan, rows).get(len(plan.stages) - 1, np.zeros(0, np.int64))
    open_ = [r for r in before.tolist() if r >= finished and (part[r] < 0 or log[r] > last.get(int(part[r]), -1))]
    chosen = np.setdiff1d(np.array(open_, np.int64), taken_out)
    rank = np.empty(n_rows(rows), np.int64)
    rank[before] = np.arange(len(before))
    there = chosen[part[chosen] >= 0]
    arriving = chosen[part[chosen] < 0]
    return np.concatenate([there[np.lexsort((log[there], part[there]))], arriving[np.argsort(rank[arriving])]])


def _before_last(plan: Plan, rows: Columns, folded: Folded) -> Any:
    """Rows that reached the last stage: what the stage before let through, and what is on its log in any case."""
    if len(plan.stages) == 1:
        return np.arange(n_rows(rows))
    passed, part = folded.passed[-2], np.asarray(rows[log_columns(plan.entities[-1])[1]])
    return np.concatenate([passed, np.setdiff1d(np.flatnonzero(part >= 0), passed)])


def known_at_last(plan: Plan, rows: Columns, folded: Folded) -> Columns:
    """The columns of a block on the last internal log."""
    names = [KIND, ID, TIME, *plan.entities, *plan.fields]
    out = {name: rows[name] for name in (*names, INTAKE_LOG, INTAKE_PARTITION)}
    last = len(plan.stages) - 1
    if last == 0:
        return out
    for name in features_before(plan, last):
        out[name] = folded.columns[name]
    for entity in plan.entities[:-1]:
        log, part = log_columns(entity)
        out[log] = np.asarray(rows[log]).astype(np.int64)
        out[part] = np.full(n_rows(rows), CARRIED, np.int32)
    return {**out, DEGRADED: folded.columns[DEGRADED]}


def blocks(plan: Plan, columns: Columns, partition: int) -> Iterator[bytes]:
    """Blocks of one destination, in order. With one entity they come from intake, as they are; else from a rebuild."""
    if len(plan.stages) == 1:
        yield from _intake_blocks(plan, columns)
        return
    by = log_columns(plan.entities[-2])[0]
    columns = {**columns, by: np.arange(n_rows(columns), dtype=np.int64)}
    yield from _cut(columns, source_name(REBUILD, partition), by, -1)


def _intake_blocks(plan: Plan, columns: Columns) -> Iterator[bytes]:
    kinds, parts, logs = (np.asarray(columns[c]) for c in (KIND, INTAKE_PARTITION, INTAKE_LOG))
    after: dict[str, int] = {}
    changes = np.flatnonzero((np.diff(kinds) != 0) | (np.diff(parts) != 0)) + 1
    for run in np.split(np.arange(len(kinds)), changes):
        source = source_name(plan.usecase.feeds[int(kinds[run[0]])].name, int(parts[run[0]]))
        yield from _cut(take(columns, run), source, INTAKE_LOG, after.get(source, -1))
        after[source] = int(logs[run[-1]])


def _cut(columns: Columns, source: str, by: str, after: int) -> Iterator[bytes]:
    for first in range(0, n_rows(columns), BLOCK_ROWS // 4):
        rows = np.arange(first, min(first + BLOCK_ROWS // 4, n_rows(columns)))
        yield encode(take(columns, rows), {"from": [(source, after, len(rows))], "by": by, "epoch": 0})
        after = int(np.asarray(columns[by])[rows[-1]])


def carried_rows(plan: Plan, rows: Columns, folded: Folded, finished: int) -> Columns | None:
    """What this generation folded in its first stages and did not finish, with an order for what was on no log."""
    passed = folded.passed[-2] if len(plan.stages) > 1 else np.zeros(0, np.int64)
    chosen = passed[passed >= finished]
    if not len(chosen):
        return None
    out = take(base(plan, rows), chosen)
    for entity in plan.entities[:-1]:
        log, part = log_columns(entity)
        nowhere = np.asarray(out[part]) < 0
        out[log] = np.where(nowhere, (1 << 62) + np.arange(len(chosen)), np.asarray(out[log]))
        out[part] = np.where(nowhere, 1 << 30, np.asarray(out[part])).astype(np.int32)
    return out
