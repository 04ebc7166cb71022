"""`riskflow rebuild`: folds history through the kernel and writes the records, logs and heads of the next generation.

From files of history (a first start), or from the archive: the rows of the present generation, on top of the records
it began with. What the present generation took and did not finish is brought on: all stages but the last are folded
here, in the order of their logs, and the last stage's input is sent into the next generation, so that its workers score
it. Each row is in the archive, or sent on, or still before intake's position: never two of these.

Nothing of the present generation changes until its heads are closed; the last thing written is the number of the next
one (batch/handover.py). A run that is killed before has done nothing, and the next one takes another number; one that
is killed between the two is run again, which workers say until then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch import topics as batch_topics
from batch.archive import archive
from batch.begin import write_heads, write_records
from batch.beside import check_none_beside
from batch.carry import blocks, carried_rows, known_at_last, pending_rows
from batch.dead import without_dead
from batch.fold import Folded, fold, stage_orders
from batch.generations import ARCHIVE, FILES, Generations, Start
from batch.handover import Heads, close, reopen
from batch.heads import read_heads
from batch.history import history_columns, known_by
from batch.importer import read_table
from batch.lake import as_columns
from batch.parked import Parked, parked_messages, read_parked
from batch.produce import producer
from batch.refusals import refuse
from batch.replay import Records, replay
from batch.stopped import members, wait_until_stopped
from batch.topics import Cluster, check_redis
from batch.unfinished import HalfSent, Taken, full, on_logs
from riskflow.columns import Columns, concat, n_rows, partition_of, take
from riskflow.connect import connect
from riskflow.declare import Feed
from riskflow.errors import NotReady, RiskflowError
from riskflow.hashkey import read_hash_key
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import Settings


@dataclass
class Rebuilt:
    """What was done, for people."""

    generation: int
    made_from: str
    rows: int = 0
    records: dict[str, int] = field(default_factory=dict)
    sent_on: int = 0
    rejected: int = 0
    not_known_yet: int = 0  # rows of files that lie in the future
    positions: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**self.__dict__, "seconds": round(self.seconds, 3)}


def rebuild(
    plan: Plan,
    conf: Settings,
    *,
    events: Path | None = None,
    labels: Path | None = None,
    partitions: int | None = None,
    drop_old: bool = False,
) -> Rebuilt:
    """Makes the next generation and points workers at it.

    Raises NotReady while workers run; RiskflowError when files are given but the stream has taken rows already.
    """
    started = time.monotonic()
    store = connect(conf.redis_url)
    check_redis(store, conf.redis_url)
    check_none_beside(store, plan, conf)
    with Cluster(conf.kafka) as cluster:
        job = _Rebuild(plan, conf, store, cluster, partitions)
        job.check_stopped()
        out = job.from_archive() if events is None else job.from_files(events, labels)
    if drop_old:
        _drop(store, plan, job.old)
    out.seconds = time.monotonic() - started
    return out


class _Rebuild:
    """One run."""

    def __init__(self, plan: Plan, conf: Settings, store: Any, cluster: Cluster, partitions: int | None) -> None:
        self.plan, self.conf, self.store, self.cluster = plan, conf, store, cluster
        bare = Names(plan.name, prefix=conf.topic_prefix)
        self.generations = Generations(plan, bare, conf.lake_folder)
        self.hash_key = read_hash_key(plan, conf.keys_folder)
        self.there = cluster.topics()
        self.old, self.new = self.generations.present_and_next(store, self.there)
        first = self.there.get(self.old.by(plan.entities[0]))
        self.partitions = partitions or (first[1] if first else conf.partitions)
        self.heads: dict[tuple[str, int], dict[str, str]] = {}
        self.rows_ends: dict[str, int] = {}

    # nobody else may write

    def check_stopped(self) -> None:
        wait_until_stopped(self.cluster, self.old)
        self.heads = read_heads(self.store, self.plan, self.old, self.there)
        self.rows_ends = self._rows_ends()
        self._check_same_kafka()

    def _check_same_kafka(self) -> None:
        """The Redis of another Kafka is not ours to write to: workers there would follow the new generation."""
        topics = {stage: topic for stage, topic, _ in batch_topics.stages(self.plan, self.old)}
        ours = [head["topic_id"] == self.there[topics[stage]][0] for (stage, _), head in self.heads.items()]
        if len(ours) > 1 and not any(ours):
            raise NotReady(
                f"none of the {len(ours)} heads in the Redis at {self.conf.redis_url} is of the topics on "
                f"{self.conf.kafka}; nothing was changed. Set RISKFLOW_REDIS_URL and RISKFLOW_KAFKA to a Redis and a "
                "Kafka that belong together; to use this Redis nevertheless, empty it first (redis-cli flushdb)."
            )

    def _still_stopped(self) -> None:
        """Heads tell of workers that have claimed, the ends of `rows` of one that was paused and sends what it had."""
        heads = read_heads(self.store, self.plan, self.old, self.there)
        moved = heads != self.heads or self._rows_ends() != self.rows_ends
        if moved or members(self.cluster, self.old.group):
            raise self._moved_on()

    def _rows_ends(self) -> dict[str, int]:
        return {str(p): end for (t, p), (_, end) in self._ranges().items() if t == self.old.rows and end}

    def _moved_on(self) -> NotReady:
        return NotReady(
            f"a worker of {self.plan.name} was started while records were folded: generation "
            f"{self.old.generation} moved on. Stop it, then run `riskflow rebuild {self.plan.name}` again."
        )

    def _close_old(self) -> Heads:
        """From here on nobody moves the old generation; raises NotReady when somebody has. The closed heads."""
        self._still_stopped()
        heads = {self.old.head(stage, p): head for (stage, p), head in self.heads.items()}
        if not close(self.store, heads, self.new.generation):
            raise self._moved_on()
        return heads

    # two sources

    def from_files(self, events: Path, labels: Path | None) -> Rebuilt:
        """History that did not go through the stream, in the conventional order."""
        self._check_first_start()
        given = self._history(events, labels)
        columns = known_by(self.plan, given, int(time.time() * 1000))
        folded = replay(self.plan, columns)
        self._make_topics()
        taken = Taken(self._feed_positions())
        out = Rebuilt(self.new.generation, FILES, n_rows(columns), not_known_yet=n_rows(given) - n_rows(columns))
        self._write(out, folded.records, taken, made_from=FILES, carried=None, history=columns)
        return out

    def _check_first_start(self) -> None:
        ranges = self._ranges()
        written = sorted({t for (t, _), (_, end) in ranges.items() if end and t.startswith(f"{self.old.group}.by.")})
        if written:
            raise RiskflowError(
                f"generation {self.old.generation} has taken rows already ({', '.join(written)}): files of history are "
                f"for a first start. Run `riskflow rebuild {self.plan.name}` without files; it keeps what they gave."
            )

    def _history(self, events: Path, labels: Path | None) -> Columns:
        tables = {self.plan.scored.name: read_table(events)}
        about = next((f for f in self.plan.usecase.feeds if f.about), None)
        if labels is not None and about is not None:
            tables[about.name] = self._with_ids(about, read_table(labels), tables[self.plan.scored.name])
        return history_columns(self.plan, tables, self.hash_key)

    def _with_ids(self, feed: Feed, labels: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
        """Labels that name their event only get its ids; those of unknown events have none and change nothing."""
        missing = [e for e in self.plan.entities if e not in labels.columns and e in events.columns]
        if not missing:
            return labels
        ids = events.select(pl.col(self.plan.scored.id).alias(str(feed.about)), *missing).unique(feed.about)
        return labels.join(ids, on=feed.about, how="inner", maintain_order="left")

    def from_archive(self) -> Rebuilt:
        """The rows of the present generation, and what it had not finished."""
        self._need_rows()
        archive(self.plan, self.conf)
        old = self.old.generation
        finished = as_columns(self.plan, self.generations.applied(old)[0])
        parked = read_parked(self.generations, old)
        rows, taken = self._all_rows(finished, parked)
        n = n_rows(finished)
        orders = stage_orders(self.plan, rows, n, parked.stopped(self.plan, rows))
        folded = fold(self.plan, rows, orders, self.generations.records(old))
        self._make_topics()
        pending = pending_rows(self.plan, rows, folded, n, parked)
        sent_on = self._send_on(rows, folded, pending)
        out = Rebuilt(self.new.generation, ARCHIVE, n, sent_on=sent_on)
        conflicts = [row for row in folded.conflicts if row >= n]
        out.rejected = refuse(self.plan, self.old, self.conf, taken, rows, conflicts)
        self._write(out, folded.records, taken, made_from=ARCHIVE, carried=carried_rows(self.plan, rows, folded, n))
        return out

    def _need_rows(self) -> None:
        wanted = [self.old.rows, self.old.feed(self.plan.scored.name)]
        missing = [t for t in wanted if t not in self.there]
        if missing:
            raise NotReady(
                f"there is nothing to rebuild {self.plan.name} from: no {', '.join(missing)}. For a new use case run "
                f"`riskflow topics {self.plan.name}`, or give files of history by --events and --labels."
            )

    def _all_rows(self, finished: Columns, parked: Parked) -> tuple[Columns, Taken]:
        """Finished rows first, then those on their way, then those that intake had not sent everywhere."""
        ranges = self._ranges()
        first = full(self.plan, finished)
        found = on_logs(self.plan, self.old, self.conf.kafka, ranges, finished, parked.blocks)
        known = concat([first, found]) if found is not None else first
        taken = self._half_sent(known, ranges)
        return concat([known, *taken.rows]), taken

    def _half_sent(self, known: Columns, ranges: dict[tuple[str, int], tuple[int, int]]) -> Taken:
        entity = self.plan.entities[0]
        there = self.there.get(self.old.by(entity))
        skip = parked_messages(self.generations, self.old.generation)
        # Added partitions have no head and were never sent to; without any head the topic's number is believed.
        partitions = sum(stage == entity for stage, _ in self.heads) or (there[1] if there else 1)
        search = HalfSent(self.plan, self.conf.kafka, partitions, known, self.hash_key, skip)
        begun = self.generations.start(self.old.generation).feeds
        trusted = there is not None and all(
            h["topic_id"] == there[0] for (s, _), h in self.heads.items() if s == entity
        )
        for feed in self.plan.usecase.feeds:
            topic = self.old.feed(feed.name)
            for p in range(self.there[topic][1] if topic in self.there else 0):
                head = self.heads.get((feed.name, p))
                if head is not None and head["topic_id"] != self.there[topic][0]:
                    search.taken.positions[feed.name, p] = ranges[topic, p][0]  # made again: another log
                    continue
                position = int(head["position"]) if head is not None and trusted else None
                begin = begun.get(feed.name, {}).get(str(p), 0)
                search.find(feed, topic, p, ranges[topic, p], position, begin)
        return search.taken

    def _ranges(self) -> dict[tuple[str, int], tuple[int, int]]:
        mine = [t for _, t, _ in batch_topics.stages(self.plan, self.old)] + [self.old.rows]
        return self.cluster.log_ranges({t: self.there[t][1] for t in mine if t in self.there})

    # the next generation

    def _make_topics(self) -> None:
        self.cluster.make(batch_topics.wanted_topics(self.plan, self.new, self.partitions), self.conf.replication)
        self.there = self.cluster.topics()

    def _feed_positions(self) -> dict[tuple[str, int], int]:
        """Where the heads stand, else where the feeds' logs begin."""
        out = {}
        ranges = self._ranges()
        for feed in self.plan.usecase.feeds:
            topic = self.old.feed(feed.name)
            for p in range(self.there[topic][1]):
                head = self.heads.get((feed.name, p))
                same = head is not None and head["topic_id"] == self.there[topic][0]
                out[feed.name, p] = int(head["position"]) if head is not None and same else ranges[topic, p][0]
        return out

    def _send_on(self, rows: Columns, folded: Folded, pending: Any) -> int:
        """Rows that the last stage has not finished, as the stage before it would have sent them."""
        if not len(pending):
            return 0
        columns = {**take(known_at_last(self.plan, rows, folded), pending)}
        last = self.plan.entities[-1]
        ids: Any = columns[last]
        to = partition_of(ids, self.partitions)
        client = producer(self.conf.kafka)
        try:
            for partition in np.unique(to).tolist():
                part = take(columns, np.flatnonzero(to == partition))
                for block in blocks(self.plan, part, partition):
                    client.send(self.new.by(last), block, partition=partition)
            client.flush()
        finally:
            client.close()
        return len(pending)

    def _write(
        self,
        out: Rebuilt,
        records: dict[str, Records],
        taken: Taken,
        *,
        made_from: str,
        carried: Columns | None,
        history: Columns | None = None,
    ) -> None:
        """Records, heads, the generation's beginning in the lake, and last the number."""
        self._still_stopped()
        records = without_dead(self.plan, records)
        write_records(self.store, self.new, records, self.partitions)
        write_heads(self.store, self.plan, self.new, self.there, taken.positions, records)
        closed = self._close_old() if self.new != self.old else {}
        try:
            self.generations.write(self._start(taken, made_from), records, carried, history)
        except BaseException:
            reopen(self.store, closed)
            raise
        self.store.set(self.new.current_generation, self.new.generation)
        out.records = {stage: len(found) for stage, found in records.items()}
        for (feed, _), position in taken.positions.items():
            out.positions[feed] = out.positions.get(feed, 0) + position

    def _start(self, taken: Taken, made_from: str) -> Start:
        """Made when the old heads are closed: all rows before its own are the old generation's, and were folded."""
        rows_from = self._rows_ends()
        if rows_from != self.rows_ends:
            raise self._moved_on()
        feeds: dict[str, dict[str, int]] = {}
        for (feed, p), position in taken.positions.items():
            feeds.setdefault(feed, {})[str(p)] = position
        before = self.old.generation if made_from == ARCHIVE else None
        return Start(self.new.generation, made_from, before, self.plan.layout_fingerprint, rows_from, feeds)


def _drop(store: Any, plan: Plan, old: Names) -> None:
    """Deletes heads and records of a generation that is not used any more."""
    pattern = old.head("*", 0).split(":*:")[0] + ":*"
    for key in list(store.scan_iter(match=pattern, count=1000)):
        store.unlink(key)
