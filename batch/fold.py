"""Folds rows through all stages where not every row takes part in every stage: what rebuild and parity need.

A row that was carried over from an earlier generation is in the first entity's record already and begins at a later
stage; a row on its way has passed the first stages only. The kernel is the one of stream and replay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.dead import first_watermarks
from batch.lake import NOWHERE
from batch.replay import CHUNK_ROWS, Progress, Records
from riskflow import evaluate
from riskflow.columns import Columns, Text, n_rows, take
from riskflow.evaluate import DEGRADED, ID, KIND, TIME, Failures
from riskflow.plan import Plan, Stage
from riskflow.state import log_columns

Numbers = NDArray[np.int64]


@dataclass
class Folded:
    """Columns as high as the input, with features where a row has passed; `passed[k]`: what stage k let through."""

    columns: Columns
    passed: list[Numbers] = field(default_factory=list)
    records: dict[str, Records] = field(default_factory=dict)
    watermarks: dict[str, dict[int, int]] = field(default_factory=dict)  # stage -> partition -> day
    conflicts: list[int] = field(default_factory=list)
    duplicates: int = 0
    failures: Failures = field(default_factory=Failures)


def stage_orders(
    plan: Plan, columns: Columns, finished: int, stopped: dict[int, Numbers] | None = None
) -> list[Numbers]:
    """For each stage the rows that take part, in order: recorded positions first, then what is new to its log.

    The first `finished` rows are archived ones; of the others, which are on their way, the last stage gets none.
    stopped: stage -> rows that a person took out of its log. They are in later ones if they had been sent before.
    """
    orders: list[Numbers] = []
    for k, entity in enumerate(plan.entities):
        order = _stage_order(columns, entity, finished, orders[-1] if orders else np.arange(n_rows(columns)))
        order = order[~np.isin(order, (stopped or {}).get(k, []))]
        orders.append(order[order < finished] if k == len(plan.entities) - 1 else order)
    return orders


def _stage_order(columns: Columns, entity: str, finished: int, before: Numbers) -> Numbers:
    log, part = (np.asarray(columns[c]) for c in log_columns(entity))
    there = np.flatnonzero(part >= 0)
    recorded = there[np.lexsort((log[there], part[there]))]
    older = np.flatnonzero(part[:finished] == NOWHERE)  # archived before this entity was declared
    older = older[np.argsort(np.asarray(columns[TIME])[older], kind="stable")]
    arriving = before[(before >= finished) & (part[before] == NOWHERE)]
    return np.concatenate([older, recorded, arriving])


def fold(
    plan: Plan,
    columns: Columns,
    orders: list[Numbers],
    records: dict[str, Records],
    tell: Progress | None = None,
) -> Folded:
    """Folds rows into records. orders[k]: the rows that take part in stage k, in order; a row refused earlier does not.

    A row that is in a later stage's order only brings the features of the stages before it in `columns`. Rows that are
    on no log of a stage are of one more partition there.
    """
    out = Folded(_with_room(plan, columns, orders))
    out.records = {e: dict(records.get(e, {})) for e in plan.entities}
    refused = np.zeros(n_rows(columns), np.bool_)
    for stage, order in zip(plan.stages, orders, strict=True):
        order = order[~refused[order]]
        passed = _stage(plan, stage, out, order, tell)
        refused[order] = True
        refused[passed] = False
        out.passed.append(passed)
    return out


def features_before(plan: Plan, stage: int) -> list[str]:
    """Features that are known when a row arrives at a stage (by number)."""
    return [f for f in plan.features if plan.nodes[f].stage < stage]


def _with_room(plan: Plan, columns: Columns, orders: list[Numbers]) -> Columns:
    """Base columns, and features that are NaN where a stage will work them out."""
    base = [KIND, ID, TIME, *plan.entities, *plan.fields, *(log_columns(e)[1] for e in plan.entities)]
    out: Columns = {name: columns[name] for name in base}
    n = n_rows(columns)
    for name in plan.features:
        given: Any = columns.get(name)
        out[name] = np.full(n, np.nan) if given is None else np.array(given, np.float64)
        stage = max(0, plan.nodes[name].stage)
        out[name][orders[stage] if stage < len(orders) else []] = np.nan  # type: ignore[index]
    out[DEGRADED] = _only(columns.get(DEGRADED), n, orders[0])
    return out


def _only(degraded: Any, n: int, fresh: Numbers) -> Text:
    """What failed before, for the rows whose first stage is not folded here."""
    if degraded is None or not len(degraded.data):
        return Text.of([b""] * n)
    values = degraded.values()
    for row in fresh.tolist():
        values[row] = b""
    return Text.of(values)


def _stage(plan: Plan, stage: Stage, out: Folded, order: Numbers, tell: Progress | None) -> Numbers:
    part = log_columns(stage.entity.field)[1]
    known = [KIND, ID, TIME, *plan.entities, *plan.fields, part, *features_before(plan, stage.index)]
    rows_there = take({part: out.columns[part]}, order)
    out.watermarks[stage.entity.field] = first_watermarks(stage, rows_there, out.records[stage.entity.field])
    passed = []
    for first in range(0, len(order), CHUNK_ROWS):
        rows = order[first : first + CHUNK_ROWS]
        chunk = take({name: out.columns[name] for name in known}, rows)
        seen = _observe(plan, stage, chunk, out)
        kept = rows[seen.kept]
        out.conflicts += rows[seen.conflicts].tolist()
        out.duplicates += seen.duplicates
        _put(plan, out, seen.columns, kept)
        passed.append(kept)
        if tell is not None:
            tell(f"rows through {stage.entity.field}", first + len(rows), len(order))
    return np.concatenate(passed) if passed else np.zeros(0, np.int64)


def _observe(plan: Plan, stage: Stage, chunk: Columns, out: Folded) -> evaluate.Observation:
    records, watermarks = out.records[stage.entity.field], out.watermarks[stage.entity.field]
    if stage.index == 0:
        evaluate.start(plan, chunk, out.failures)
    entities, slots = evaluate.entities_of(stage, chunk)
    known = [records.get(e) for e in entities]
    seen = evaluate.observe(plan, stage, chunk, slots, known, watermarks, out.failures)
    records.update(zip(entities, seen.records, strict=True))
    watermarks.update(seen.watermarks)
    return seen


def _put(plan: Plan, out: Folded, seen: Columns, rows: Numbers) -> None:
    for name in plan.features:
        if name in seen:
            out.columns[name][rows] = seen[name]  # type: ignore[index]
    degraded: Any = seen[DEGRADED]
    if len(degraded.data):
        out.columns[DEGRADED] = _also(out.columns[DEGRADED], degraded, rows)


def _also(before: Any, degraded: Text, rows: Numbers) -> Text:
    values = before.values()
    for row, names in zip(rows.tolist(), degraded.values(), strict=True):
        values[row] = b",".join(x for x in (values[row], names) if x)
    return Text.of(values)
