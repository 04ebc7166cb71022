"""`riskflow parity`: archived rows against a replay of the same logs in the recorded positions, bit for bit.

Rows that are still on their way are folded too (a later row of their customer may be in the archive already), but not
compared. What is compared: every feature of every archived row; that the positions of each source rise; that no
accepted message is missing; and, at rest, every record in Redis.

The stream may run meanwhile, so the order of looks matters: up to where intake has passed the feeds, then the archive,
then the ends of the internal logs. A message that intake had passed, and all that an archived row came after, stood on
those logs before; what has come since is only on its way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from batch import lake
from batch.dead import differing, first_watermark
from batch.fold import Folded, fold, stage_orders
from batch.generations import Generations, present_generation
from batch.parked import Parked, parked_messages, read_parked
from batch.replay import Records
from batch.topics import Cluster, stages
from batch.unfinished import full, keys, on_logs
from riskflow.columns import Columns, Text, concat, n_rows, partition_of
from riskflow.connect import connect
from riskflow.errors import RiskflowError
from riskflow.evaluate import ID, KIND
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import Settings
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, ROW_BITS, WATERMARK, log_columns

Stopped = dict[int, NDArray[np.int64]]


@dataclass
class Feature:
    """How one feature compares: values that differ, that the archive lacks, that only the archive has."""

    mismatches: int = 0
    missing: int = 0
    extra: int = 0

    def __bool__(self) -> bool:
        return bool(self.mismatches or self.missing or self.extra)


@dataclass
class Parity:
    """What was compared."""

    generation: int
    rows: int
    features: dict[str, Feature] = field(default_factory=dict)
    missing_rows: list[str] = field(default_factory=list)
    extra_rows: int = 0
    order_errors: int = 0
    unfinished: int = 0
    records: int = 0
    records_differing: int | None = None
    seconds: float = 0.0

    @property
    def mismatches(self) -> int:
        return sum(f.mismatches for f in self.features.values())

    @property
    def missing(self) -> int:
        return len(self.missing_rows) + sum(f.missing for f in self.features.values())

    @property
    def extra(self) -> int:
        return self.extra_rows + sum(f.extra for f in self.features.values())

    @property
    def equal(self) -> bool:
        return not (self.mismatches or self.missing or self.extra or self.order_errors or self.records_differing)

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        differing = {name: [f.mismatches, f.missing, f.extra] for name, f in self.features.items() if f}
        return {
            "generation": self.generation, "rows": self.rows, "features": len(self.features),
            "mismatches": self.mismatches, "missing": self.missing, "extra": self.extra,
            "order_errors": self.order_errors, "unfinished": self.unfinished, "records": self.records,
            "records_differing": self.records_differing, "differing": differing, "seconds": round(self.seconds, 3),
        }  # fmt: skip


def parity(
    plan: Plan,
    conf: Settings,
    *,
    records: bool = False,
    since_ms: int | None = None,
    generation: int | None = None,
) -> Parity:
    """Compares the rows of a generation (the present one) in the lake, which `batch.archive` brings up to date.

    since_ms: only rows that the broker took from then on; all are folded. records: compare those in Redis, at rest.
    """
    started = time.monotonic()
    store = connect(conf.redis_url)
    generations = Generations(plan, Names(plan.name, prefix=conf.topic_prefix), conf.lake_folder)
    names = generations.at(generation or present_generation(store, generations))
    with Cluster(conf.kafka) as cluster:
        there = {topic: n for topic, (_, n) in cluster.topics().items()}
        job = _Job(plan, conf, store, generations, names)
        out = job.run(cluster, there, since_ms)
    if records:
        job.compare_records(out, there[names.by(plan.entities[0])])
    out.seconds = time.monotonic() - started
    return out


class _Job:
    """One comparison."""

    def __init__(self, plan: Plan, conf: Settings, store: Any, generations: Generations, names: Names) -> None:
        self.plan, self.conf, self.store, self.generations, self.names = plan, conf, store, generations, names
        self.records: dict[str, Records] = {}
        self.watermarks: dict[str, dict[int, int]] = {}
        self.begun: dict[str, int] = {}
        self.passed: dict[str, dict[int, int]] = {}

    def run(self, cluster: Cluster, there: dict[str, int], since_ms: int | None) -> Parity:
        self.passed = {f.name: self._positions(f.name, there) for f in self.plan.usecase.feeds}
        frame, _ = self.generations.applied(self.names.generation)
        finished = lake.as_columns(self.plan, frame)
        parked = read_parked(self.generations, self.names.generation)
        rows = full(self.plan, finished)
        ranges = cluster.log_ranges({t: there[t] for _, t, _ in stages(self.plan, self.names) if t in there})
        found = on_logs(self.plan, self.names, self.conf.kafka, ranges, finished, parked.blocks)
        rows = concat([rows, found]) if found is not None else rows
        folded = self._fold(rows, n_rows(finished), parked)
        out = Parity(self.names.generation, n_rows(finished), order_errors=order_errors(self.plan, rows))
        self._compare(out, frame, finished, folded, since_ms, parked.stopped(self.plan, rows))
        self._account(out, rows, folded, n_rows(finished), parked)
        return out

    def _positions(self, feed: str, there: dict[str, int]) -> dict[int, int]:
        """Up to where intake has passed each partition of a feed."""
        partitions = range(there.get(self.names.feed(feed), 0))
        return {p: int(self.store.hget(self.names.head(feed, p), "position") or 0) for p in partitions}

    def _fold(self, rows: Columns, finished: int, parked: Parked) -> Folded:
        orders = stage_orders(self.plan, rows, finished, parked.stopped(self.plan, rows))
        first = self.generations.records(self.names.generation)
        folded = fold(self.plan, rows, orders, first)
        self.records, self.watermarks = folded.records, folded.watermarks
        self.begun = {stage: first_watermark(first.get(stage, {})) for stage in self.plan.entities}
        return folded

    def _compare(
        self,
        out: Parity,
        frame: pl.DataFrame,
        archived: Columns,
        folded: Folded,
        since_ms: int | None,
        stopped: Stopped,
    ) -> None:
        n = n_rows(archived)
        came = np.zeros(n, np.bool_)
        came[folded.passed[-1]] = True
        taken_out = stopped.get(len(self.plan.stages) - 1, np.zeros(0, np.int64))  # after it was sent, before a commit
        out.extra_rows = len(np.setdiff1d(np.flatnonzero(~came), taken_out))
        if since_ms is not None and n:
            came &= (frame[lake.BROKER_MS] >= since_ms).to_numpy()
        for name in self.plan.features:
            out.features[name] = _feature(frame, name, archived[name], folded.columns[name], came)
        for name in frame.columns if n else ():
            if self._unknown(frame, name):
                out.features[name] = Feature(extra=len(frame) - frame[name].null_count())

    def _unknown(self, frame: pl.DataFrame, name: str) -> bool:
        """A feature in the archive that the plan does not have (any more)."""
        plain = name not in self.plan.nodes and not name.startswith("_")
        return plain and frame[name].dtype == pl.Float64 and name not in self.plan.models

    def _account(self, out: Parity, rows: Columns, folded: Folded, finished: int, parked: Parked) -> None:
        """Every accepted row is archived, on its way, or taken out by a person."""
        log, part = (np.asarray(rows[c]) for c in log_columns(self.plan.entities[-1]))
        stopped = parked.stopped(self.plan, rows)
        taken_out = np.concatenate([np.zeros(0, np.int64), *stopped.values()])
        last = {int(p): int(log[:finished][part[:finished] == p].max()) for p in np.unique(part[:finished])}
        passed = folded.passed[-2] if len(self.plan.stages) > 1 else np.zeros(0, np.int64)
        ids: Any = rows[ID]
        names = ids.strings()
        for row in np.setdiff1d(passed[passed >= finished], taken_out).tolist():
            if part[row] >= 0 and log[row] <= last.get(int(part[row]), -1):
                out.missing_rows.append(str(names[row]))
            else:
                out.unfinished += 1
        out.missing_rows += self._lost(rows)

    def _lost(self, rows: Columns) -> list[str]:
        """Ids of messages that intake has passed and that are on no log, neither duplicates nor rejected."""
        lost: list[str] = []
        known = keys(rows).with_columns(known=True)
        said = lake.read_topic(self.conf.lake_folder, self.names.rejected)
        refused = {k.decode() for k in said["_key"].to_list() if k} if len(said) else set()
        ids: Any = rows[ID]
        seen = set(zip(np.asarray(rows[KIND]).tolist(), ids.strings(), strict=True))
        for feed in self.plan.usecase.feeds:
            kind = self.plan.kind(feed.name)
            for p, offset, name in self._unaccounted(feed.name, kind, known):
                if (kind, name) not in seen and f"{feed.name}:{p}:{offset}" not in refused:
                    lost.append(name)
        return lost

    def _unaccounted(self, feed: str, kind: int, known: pl.DataFrame) -> list[tuple[int, int, str]]:
        frame = lake.read_topic(self.conf.lake_folder, self.names.feed(feed), [lake.PARTITION, lake.STATUS, ID])
        if not len(frame):
            return []
        begun = self.generations.start(self.names.generation).feeds.get(feed, {})
        skip = parked_messages(self.generations, self.names.generation)
        parts = sorted(frame[lake.PARTITION].unique().to_list())
        at = pl.col(lake.PARTITION)
        offset = pl.col(lake.OFFSET)
        mine = frame.filter(
            (pl.col(lake.STATUS) == lake.ACCEPTED)
            & (offset < at.replace_strict(self.passed[feed], default=0, return_dtype=pl.Int64))
            & (offset >= at.replace_strict({p: begun.get(str(p), 0) for p in parts}, return_dtype=pl.Int64))
        )
        mine = mine.with_columns(
            pl.lit(kind, pl.Int64).alias(KIND), at.cast(pl.Int64).alias(INTAKE_PARTITION),
            offset.cast(pl.Int64).mul(1 << ROW_BITS).alias(INTAKE_LOG),
        )  # fmt: skip
        left = mine.join(known, on=lake.ROW_KEY, how="anti").select(lake.PARTITION, lake.OFFSET, ID).rows()
        return [(p, o, name) for p, o, name in left if (feed, p, o) not in skip]

    def compare_records(self, out: Parity, partitions: int) -> None:
        """Records in Redis that are not the replay's bytes, missing and extra ones included; and watermarks."""
        wrong = 0
        for stage in self.plan.stages:
            name = stage.entity.field
            expected = by_partition(self.records[name], partitions)
            for p in range(partitions):
                watermark = self.watermarks[name].get(p, self.begun[name])
                found = self.store.hgetall(self.names.records(name, p))
                wrong += differing(stage, expected[p], found, watermark)
                wrong += watermark != int(self.store.hget(self.names.head(name, p), WATERMARK) or 0)
                out.records += len(found)
        out.records_differing = wrong


def _feature(frame: pl.DataFrame, name: str, archived: Any, again: Any, came: NDArray[np.bool_]) -> Feature:
    n = len(came)
    if name not in frame.columns:
        return Feature(missing=int(came.sum()))
    absent = frame[name].is_null().to_numpy() if frame[name].null_count() else np.zeros(n, np.bool_)
    a = np.ascontiguousarray(archived, np.float64).view(np.int64)
    b = np.ascontiguousarray(again[:n], np.float64).view(np.int64)
    return Feature(int(((a != b) & came & ~absent).sum()), int((absent & came).sum()))


def order_errors(plan: Plan, rows: Columns) -> int:
    """Rows whose position does not rise above that of the row before it from the same source to the same partition."""
    wrong = 0
    source: tuple[Any, ...] = (rows[KIND], rows[INTAKE_PARTITION])
    positions: Any = rows[INTAKE_LOG]
    for entity in plan.entities:
        log, part = (np.asarray(rows[c]) for c in log_columns(entity))
        there = np.flatnonzero(part >= 0)
        group = [np.asarray(s)[there] for s in source]
        order = np.lexsort((log[there], *group, part[there]))
        same = np.ones(max(0, len(there) - 1), np.bool_)
        for values in (*group, part[there]):
            same &= values[order][1:] == values[order][:-1]
        found = np.asarray(positions)[there][order]
        wrong += int((same & (found[1:] <= found[:-1])).sum())
        source, positions = (part,), log
    return wrong


def by_partition(records: Records, partitions: int) -> list[dict[bytes, bytes]]:
    """The fields of each partition's records in Redis."""
    out: list[dict[bytes, bytes]] = [{} for _ in range(partitions)]
    ids = list(records)
    to = partition_of(Text.of(ids), partitions).tolist() if ids else []
    for name, p in zip(ids, to, strict=True):
        out[p][b"e:" + name] = records[name]
    return out


def check(found: Parity) -> None:
    """Raises RiskflowError when anything differs: for pipelines."""
    if not found.equal:
        raise RiskflowError(f"parity: {found.summary()}")
