"""`riskflow rebuild --beside`: makes the next generation while the present one goes on scoring.

The present generation has taken each feed up to some offset. When all that it had taken by then is archived, its rows
before those offsets are folded into records, by the plan as it is now; the next generation's intake begins there. Its
workers apply what has come since without scoring it, until `riskflow switch` cuts the feeds (batch/switch.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batch.archive import archive
from batch.begin import write_heads, write_records
from batch.carry import carried_rows
from batch.dead import without_dead
from batch.fold import Folded, fold, stage_orders
from batch.generations import ARCHIVE, Generations, Start, before
from batch.heads import Passing, read_heads
from batch.lake import as_columns
from batch.parked import read_parked
from batch.stopped import members
from batch.topics import BROKER_TIME, LARGE, Cluster, Wanted, check_redis, stages, wanted_topics
from batch.unfinished import full
from riskflow.columns import Columns, concat, n_rows, take
from riskflow.connect import connect
from riskflow.errors import NotReady, RiskflowError
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import Settings

DRAIN_S = 120.0


@dataclass
class Beside:
    """What was made, for people."""

    generation: int
    behind: int
    rows: int = 0
    partitions: int = 0
    records: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**self.__dict__, "seconds": round(self.seconds, 3)}


def make_beside(plan: Plan, conf: Settings, partitions: int | None = None) -> Beside:
    """Makes the next generation beside the present one, whose workers run.

    Raises RiskflowError when there is one already, NotReady when the present one does not move.
    """
    started = time.monotonic()
    store = connect(conf.redis_url)
    check_redis(store, conf.redis_url)
    check_none_beside(store, plan, conf)
    with Cluster(conf.kafka) as cluster:
        out = _Job(plan, conf, store, cluster, partitions).run()
    out.seconds = time.monotonic() - started
    return out


def check_none_beside(store: Any, plan: Plan, conf: Settings) -> None:
    """Raises RiskflowError when a generation is made beside the present one already."""
    found = store.get(Names(plan.name, prefix=conf.topic_prefix).beside)
    if found is not None:
        raise RiskflowError(
            f"generation {int(found)} of {plan.name} is made beside the present one already. "
            f"Run `riskflow switch {plan.name}` to go over to it, or `riskflow switch {plan.name} --cancel` first."
        )


def cancel(plan: Plan, conf: Settings) -> int:
    """Takes away the generation that was made beside the present one; its number, 0 when there was none.

    Raises NotReady while its workers run, RiskflowError when the feeds are cut already.
    """
    store = connect(conf.redis_url)
    bare = Names(plan.name, prefix=conf.topic_prefix)
    generations = Generations(plan, bare, conf.lake_folder)
    number = int(store.get(bare.beside) or 0)
    if not number:
        return 0
    names = generations.at(number)
    if generations.cut(number) is not None:
        raise RiskflowError(f"the feeds are cut already: finish it with `riskflow switch {plan.name}`.")
    with Cluster(conf.kafka) as cluster:
        working = members(cluster, names.group)
        if working:
            raise NotReady(f"workers of generation {number} run ({', '.join(working)}). Stop them first.")
        there = cluster.topics()
        store.delete(bare.beside)
        for at in read_heads(store, plan, names, there):
            store.unlink(names.head(*at), names.records(*at))
        gone = [t for t in (*map(names.by, plan.entities), names.held) if t in there]
        cluster.admin.delete_topics(gone)
    return number


class _Job:
    """One run."""

    def __init__(self, plan: Plan, conf: Settings, store: Any, cluster: Cluster, partitions: int | None) -> None:
        self.plan, self.conf, self.store, self.cluster = plan, conf, store, cluster
        bare = Names(plan.name, prefix=conf.topic_prefix)
        self.generations = Generations(plan, bare, conf.lake_folder)
        self.there = cluster.topics()
        self.old, self.new = self.generations.present_and_next(store, self.there)
        self.partitions = partitions or self._partitions_now()

    def _partitions_now(self) -> int:
        topic = self.old.by(self.plan.entities[0])
        if topic not in self.there:
            raise NotReady(f"there is no {topic}. Run `riskflow topics {self.plan.name}`.")
        return self.there[topic][1]

    def run(self) -> Beside:
        begin = self._intake()
        self._wait_archived()
        finished, rows, folded = self._folded(begin)
        self._make_topics()
        kept = without_dead(self.plan, folded.records)
        write_records(self.store, self.new, kept, self.partitions)
        flat = {(feed, int(p)): offset for feed, of in begin.items() for p, offset in of.items()}
        write_heads(self.store, self.plan, self.new, self.there, flat, kept, behind=self.old.generation)
        start = Start(
            self.new.generation, ARCHIVE, self.old.generation, self.plan.layout_fingerprint, {}, begin, beside=True
        )
        self.generations.write(start, kept, carried_rows(self.plan, rows, folded, finished), None)
        self.store.set(self.new.beside, self.new.generation)
        records = {stage: len(found) for stage, found in kept.items()}
        return Beside(self.new.generation, self.old.generation, finished, self.partitions, records)

    def _intake(self) -> dict[str, dict[str, int]]:
        """Up to where each feed was taken: feed -> partition -> offset."""
        heads = read_heads(self.store, self.plan, self.old, self.there)
        out: dict[str, dict[str, int]] = {}
        for feed in self.plan.usecase.feeds:
            for p in range(self.there[self.old.feed(feed.name)][1]):
                if (feed.name, p) not in heads:
                    raise NotReady(
                        f"no head for {feed.name}, partition {p}, in Redis. Run `riskflow topics {self.plan.name}`."
                    )
                out.setdefault(feed.name, {})[str(p)] = int(heads[feed.name, p]["position"])
        return out

    def _wait_archived(self) -> None:
        """What intake had sent goes through one stage after another, and then stands in the lake."""
        passing = Passing(self.store, self.plan, self.old, self.conf.kafka)
        for stage, topic, internal in stages(self.plan, self.old):
            if internal:
                ranges = self.cluster.log_ranges({topic: self.there[topic][1]})
                ends = {(stage, p): end for (_, p), (_, end) in ranges.items()}
                passing.wait(ends, DRAIN_S, self._stands_still)
        archive(self.plan, self.conf)

    def _stands_still(self, where: str) -> str:
        return (
            f"generation {self.old.generation} of {self.plan.name} does not go on ({where}). Start its workers; or "
            f"stop them all and run `riskflow rebuild {self.plan.name}` without --beside."
        )

    def _folded(self, begin: dict[str, dict[str, int]]) -> tuple[int, Columns, Folded]:
        """How many rows were finished, the rows, and what they fold to."""
        parked = read_parked(self.generations, self.old.generation)
        known = full(self.plan, as_columns(self.plan, self.generations.applied(self.old.generation)[0]))
        finished = take(known, np.flatnonzero(before(self.plan, known, begin)))
        taken_out = [take(b, np.flatnonzero(before(self.plan, b, begin))) for b in parked.blocks]
        rows = concat([finished, *taken_out])
        orders = stage_orders(self.plan, rows, n_rows(finished), parked.stopped(self.plan, rows))
        records = self.generations.records(self.old.generation)
        return n_rows(finished), rows, fold(self.plan, rows, orders, records)

    def _make_topics(self) -> None:
        held = Wanted(self.new.held, self.there[self.new.rows][1], BROKER_TIME | LARGE | {"retention.ms": "-1"})
        wanted = [*wanted_topics(self.plan, self.new, self.partitions), held]
        self.cluster.make(wanted, self.conf.replication)
        self.there = self.cluster.topics()
