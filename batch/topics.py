"""Makes the topics and heads of a use case, before anything starts. It never touches what is there already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

from batch.generations import Generations, present_generation
from riskflow.connect import connect, maxmemory_policies
from riskflow.errors import NotReady
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import Settings
from riskflow.state import grown, new_head

DAY_MS = 86_400_000
BROKER_TIME = {"message.timestamp.type": "LogAppendTime"}
LARGE = {"max.message.bytes": str(4 * 1024 * 1024)}


@dataclass(frozen=True)
class Wanted:
    """One topic as it should be."""

    name: str
    partitions: int
    config: dict[str, str]


def wanted_topics(plan: Plan, names: Names, partitions: int) -> list[Wanted]:
    """All topics of a use case, each with the reason for its settings."""
    forever = {"retention.ms": "-1"}
    feeds = [Wanted(names.feed(f.name), partitions, BROKER_TIME | forever | LARGE) for f in plan.usecase.feeds]
    # Internal blocks are needed again only when Redis loses its last writes, or to rebuild; a week is ample.
    inner = [
        Wanted(names.by(e), partitions, BROKER_TIME | LARGE | {"retention.ms": str(7 * DAY_MS)}) for e in plan.entities
    ]
    month = {"retention.ms": str(30 * DAY_MS)}
    out = [
        Wanted(names.scores, partitions, BROKER_TIME | month),
        Wanted(names.shadow, partitions, BROKER_TIME | month),
        Wanted(names.external, partitions, BROKER_TIME | month),
        Wanted(names.rows, partitions, BROKER_TIME | LARGE | forever),
        Wanted(names.rejected, 1, BROKER_TIME | LARGE | forever),
        Wanted(names.drift, 1, BROKER_TIME | LARGE | month),
        Wanted(names.alerts, 1, BROKER_TIME | month),
        Wanted(names.review, 1, BROKER_TIME | forever),
    ]
    return [*feeds, *inner, *out]


class Cluster:
    """Kafka as an administrator sees it."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap.split(",")
        try:
            self.admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, client_id="riskflow-topics")
        except KafkaError:
            raise NotReady(f"Kafka at {bootstrap} does not answer. Run `riskflow up`.") from None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.admin.close()

    def topics(self) -> dict[str, tuple[str, int]]:
        """Name -> (topic id, partitions) of every topic."""
        return {t["name"]: (str(t["topic_id"]), len(t["partitions"])) for t in self.admin.describe_topics()}

    def make(self, wanted: list[Wanted], replication: int) -> list[str]:
        """Makes the topics that are missing; returns their names."""
        there = self.topics()
        missing = [w for w in wanted if w.name not in there]
        if missing:
            self.admin.create_topics(
                [NewTopic(w.name, w.partitions, replication, topic_configs=w.config) for w in missing]
            )
            self.admin.wait_for_topics([w.name for w in missing])
        return [w.name for w in missing]

    def log_ranges(self, topics: dict[str, int]) -> dict[tuple[str, int], tuple[int, int]]:
        """(topic, partition) -> (first offset, next offset)."""
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap)
        try:
            tps = [TopicPartition(t, p) for t, n in topics.items() for p in range(n)]
            first, last = consumer.beginning_offsets(tps), consumer.end_offsets(tps)
        finally:
            consumer.close()
        return {(tp.topic, tp.partition): (first[tp], last[tp]) for tp in tps}

    def timestamp_types(self, topics: list[str]) -> dict[str, str]:
        """Topic -> its message.timestamp.type."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, t) for t in topics]
        answer = self.admin.describe_configs(resources)["topic"]
        found = {t: c.get("message.timestamp.type", {}) for t, c in answer.items()}
        return {t: str(c.get("value", c) if isinstance(c, dict) else c) for t, c in found.items()}


@dataclass(frozen=True)
class Made:
    """What was made, for people."""

    topics: list[str]
    heads: int
    kept: int


def make(plan: Plan, conf: Settings, partitions: int | None = None) -> Made:
    """Topics and heads of the current generation; raises NotReady where a head is missing and its log is not new."""
    store = connect(conf.redis_url)
    check_redis(store, conf.redis_url)
    generations = Generations(plan, Names(plan.name, prefix=conf.topic_prefix), conf.lake_folder)
    generation = present_generation(store, generations)
    names = generations.at(generation)
    with Cluster(conf.kafka) as cluster:
        made = cluster.make(wanted_topics(plan, names, partitions or conf.partitions), conf.replication)
        _check_not_emptied(plan, names, store, generation in generations.known())
        heads, kept = _make_heads(plan, names, cluster, store)
    store.setnx(names.current_generation, generation)
    return Made(made, heads, kept)


def stages(plan: Plan, names: Names) -> Iterator[tuple[str, str, bool]]:
    """(stage, topic, internal) of every stage in order."""
    for feed in plan.usecase.feeds:
        yield feed.name, names.feed(feed.name), False
    for entity in plan.entities:
        yield entity, names.by(entity), True


def _check_not_emptied(plan: Plan, names: Names, store: Any, rebuilt: bool) -> None:
    """A generation that a rebuild made began with records, so heads without them would begin from nothing."""
    if rebuilt and not store.exists(names.head(plan.entities[0], 0)):
        raise NotReady(
            f"generation {names.generation} of {plan.name} began with records, and Redis has none of its heads: it was "
            f"emptied or is another one. Run `riskflow rebuild {plan.name}`."
        )


def _make_heads(plan: Plan, names: Names, cluster: Cluster, store: Any) -> tuple[int, int]:
    there = cluster.topics()
    ranges = cluster.log_ranges({t: there[t][1] for _, t, _ in stages(plan, names)})
    new: list[tuple[str, dict[str, Any]]] = []
    kept = 0
    for stage, topic, internal in stages(plan, names):
        topic_id, partitions = there[topic]
        heads = [names.head(stage, p) for p in range(partitions)]
        missing = [p for p, key in enumerate(heads) if not store.exists(key)]
        if internal and missing:
            _check_never_used(plan, names, store, stage, topic, missing, [ranges[topic, p] for p in range(partitions)])
        kept += partitions - len(missing)
        new += [(heads[p], new_head(ranges[topic, p][0], topic_id, plan.layout_fingerprint)) for p in missing]
    for key, head in new:
        store.hset(key, mapping=head)
    return len(new), kept


def _check_never_used(
    plan: Plan, names: Names, store: Any, stage: str, topic: str, missing: list[int], ranges: list[tuple[int, int]]
) -> None:
    """A head of an internal log may begin at its start only where no entity has been given a partition yet."""
    for partition in missing:
        blocks = ranges[partition][1]
        if blocks > 0:
            raise NotReady(
                f"{topic}, partition {partition}: no head in Redis, but the log has been written ({blocks} blocks). "
                f"Redis was emptied or is another one. Run `riskflow rebuild {plan.name}`."
            )
    kept = [p for p in range(len(ranges)) if p not in missing]
    if kept and (any(end for _, end in ranges) or any(store.exists(names.records(stage, p)) for p in kept)):
        raise NotReady(grown(names, topic, len(ranges), missing))


def check_redis(store: Any, url: str) -> None:
    """Refuses a Redis that may throw state away."""
    try:
        policies = maxmemory_policies(store)
    except redis.exceptions.ConnectionError as error:
        raise NotReady(f"Redis at {url} does not answer ({error}). Run `riskflow up`.") from None
    except redis.exceptions.ResponseError:
        return  # a managed Redis may hide its configuration; `doctor` says so
    if policies != {"noeviction"}:
        found = ", ".join(sorted(policies))
        raise NotReady(f"Redis at {url} has maxmemory-policy {found}: it would drop state. Set it to noeviction.")
