"""What came out: scores, rows, rejected messages and records, read from the real topics and Redis."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis
from kafka import KafkaConsumer, TopicPartition

from batch.replay import recorded_orders, replay
from riskflow.columns import Columns, Text, concat, n_rows, take
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION
from riskflow.wire import decode


@dataclass
class Outcome:
    """Everything the stream has written."""

    scores: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    rejected: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    blocks: list[Columns] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)


class Topics:
    """Reads whole topics."""

    def __init__(self, bootstrap: str, names: Names) -> None:
        self.names = names
        self._consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")

    def close(self) -> None:
        self._consumer.close()

    def end(self, topic: str) -> int:
        """Records in a topic."""
        return sum(self._consumer.end_offsets(self._partitions(topic)).values())

    def read(self, topic: str) -> list[Any]:
        """All records of a topic, partition by partition."""
        found = []
        for tp in self._partitions(topic):
            end = self._consumer.end_offsets([tp])[tp]
            self._consumer.assign([tp])
            self._consumer.seek_to_beginning(tp)
            while self._consumer.position(tp) < end:
                for records in self._consumer.poll(500).values():
                    found += records
        return found

    def outcome(self) -> Outcome:
        out = Outcome()
        for record in self.read(self.names.scores):
            out.scores[record.key.decode()].append(record.value)
            out.versions.add(json.loads(record.value)["bundle"])
        for record in self.read(self.names.rejected):
            kind = next(v.decode() for k, v in record.headers if k == "error-type")
            out.rejected[record.key.decode()].append(kind)
        out.blocks = [decode(r.value)[0] for r in self.read(self.names.rows)]
        return out

    def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, p) for p in sorted(self._consumer.partitions_for_topic(topic) or ())]


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
    """Records in Redis that are not the bytes a replay gives, missing and extra ones included."""
    again = _replayed(plan, rows)
    wrong = 0
    for entity, expected in again.records.items():
        stored: dict[bytes, bytes] = {}
        for partition in range(partitions):
            stored |= {k[2:]: v for k, v in store.hgetall(names.records(entity, partition)).items()}
        wrong += sum(stored.get(k) != v for k, v in expected.items()) + len(set(stored) - set(expected))
    return wrong


def _replayed(plan: Plan, rows: Columns) -> Any:
    made = {*plan.features, *plan.models, "_score", "_action", "_bundle", "_degraded"}
    bare = {name: column for name, column in rows.items() if name not in made}
    return replay(plan, bare, recorded_orders(plan, rows))


def _position_order(plan: Plan, rows: Columns) -> Any:
    return np.lexsort((np.asarray(rows[INTAKE_LOG]), np.asarray(rows[INTAKE_PARTITION]), np.asarray(rows["_kind"])))


def wait_until(condition: Any, timeout_s: float, what: str) -> None:
    """Polls until the condition holds; fails the test naming what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s} s")
        time.sleep(0.1)
