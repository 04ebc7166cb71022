"""What came out: scores, rows and records, compared with a replay of the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis

from batch.dead import differing
from batch.parity import by_partition
from batch.replay import recorded_orders, replay
from riskflow.columns import Columns, Text, concat, n_rows, take
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION
from riskflow.wire import decode
from tests.chaos import observer


@dataclass
class Outcome:
    """Everything the stream has written that is compared."""

    scores: dict[str, list[bytes]] = field(default_factory=dict)
    blocks: list[Columns] = field(default_factory=list)


class Topics(observer.Topics):
    """Reads whole topics."""

    def outcome(self) -> Outcome:
        out = Outcome(scores=self.scores())
        out.blocks = [decode(r.value)[0] for r in self.read(self.names.rows)]
        return out


def effective_rows(blocks: list[Columns]) -> tuple[Columns, int]:
    """Each row once, and how many that were sent more than once differ in any column."""
    columns = concat(blocks)
    kinds, part, log = (np.asarray(columns[c]).astype(np.int64) for c in ("_kind", INTAKE_PARTITION, INTAKE_LOG))
    key = np.rec.fromarrays([kinds, part, log])
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    differing = np.zeros(len(key), bool)
    original = first[inverse]
    for column in columns.values():
        differing |= _differs(column, original)
    return take(columns, np.sort(first)), int(differing.sum())


def _differs(column: Any, original: Any) -> Any:
    if isinstance(column, Text):
        values = np.array(column.values(), dtype=object)
        return values != values[original]
    bits = column.view(np.int64) if column.dtype == np.float64 else column
    return bits != bits[original]


def differing_features(plan: Plan, rows: Columns) -> dict[str, int]:
    """Rows whose features differ in any bit from a replay of the same rows in their recorded positions."""
    again = _replayed(plan, rows)
    order = _position_order(plan, rows)
    again_order = _position_order(plan, again.columns)
    if n_rows(again.columns) != n_rows(rows):
        return {"rows": n_rows(rows) - n_rows(again.columns)}
    found = {}
    for name in plan.features:
        a, b = np.asarray(rows[name])[order], np.asarray(again.columns[name])[again_order]
        wrong = int((np.asarray(a, np.float64).view(np.int64) != np.asarray(b, np.float64).view(np.int64)).sum())
        if wrong:
            found[name] = wrong
    return found


def differing_records(plan: Plan, rows: Columns, names: Names, store: redis.Redis, partitions: int) -> int:
    """Records in Redis that are not the bytes a replay gives, missing and extra ones included; the dead may be gone."""
    again = _replayed(plan, rows)
    wrong = 0
    for stage in plan.stages:
        entity = stage.entity.field
        for partition, expected in enumerate(by_partition(again.records[entity], partitions)):
            found = store.hgetall(names.records(entity, partition))
            wrong += differing(stage, expected, found, again.watermarks[entity].get(partition, 0))
    return wrong


def _replayed(plan: Plan, rows: Columns) -> Any:
    made = {*plan.features, *plan.models, "_score", "_action", "_bundle", "_degraded"}
    bare = {name: column for name, column in rows.items() if name not in made}
    return replay(plan, bare, recorded_orders(plan, rows))


def _position_order(plan: Plan, rows: Columns) -> Any:
    return np.lexsort((np.asarray(rows[INTAKE_LOG]), np.asarray(rows[INTAKE_PARTITION]), np.asarray(rows["_kind"])))
