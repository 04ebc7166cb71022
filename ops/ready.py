"""What a use case has on Kafka and in Redis, as far as `riskflow doctor` asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType

from batch import topics as batch_topics
from ops import kafka, redis
from riskflow.bundle import verify
from riskflow.errors import NotReady
from riskflow.keys import load_public_keys
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.registry import CHAMPION, Registry, check_move
from riskflow.settings import Settings, settings
from riskflow.usecase import load_usecase

TIMESTAMP_TYPE = "message.timestamp.type"


@dataclass(frozen=True)
class Usecase:
    """One use case at the generation its workers use, seen through open connections."""

    plan: Plan
    names: Names
    conf: Settings
    cluster: batch_topics.Cluster
    store: Any

    def topics(self) -> list[str]:
        return [topic.name for topic in batch_topics.wanted_topics(self.plan, self.names, self.conf.partitions)]

    def found_topics(self) -> dict[str, int]:
        """Name to number of partitions, of this use case's topics that are there."""
        wanted = set(self.topics())
        return {name: partitions for name, (_, partitions) in self.cluster.topics().items() if name in wanted}

    def timestamp_types(self) -> dict[str, str]:
        """Topic to message.timestamp.type, the broker's default included."""
        found = self.found_topics()
        if not found:
            return {}
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, {TIMESTAMP_TYPE: None}) for topic in found]
        answer = self.cluster.admin.describe_configs(wanted, config_filter="all")["topic"]
        return {topic: config[TIMESTAMP_TYPE]["value"] for topic, config in answer.items()}

    def missing_heads(self) -> list[str]:
        found = self.found_topics()
        return [
            key
            for stage, topic, _ in batch_topics.stages(self.plan, self.names)
            for key in self._heads(stage, found.get(topic, 1))
            if not self.store.exists(key)
        ]

    def champion(self) -> int | None:
        """The version that workers load; BundleRefused when they would not. None: nothing was published."""
        registry = Registry(self.store, self.names)
        move = registry.champion()
        if move is None:
            return None
        keys = load_public_keys(self.conf.keys_folder)
        check_move(move, keys, self.names, CHAMPION)
        return verify(registry.raw(move.version), keys, plan=self.plan).version

    def _heads(self, stage: str, partitions: int) -> list[str]:
        return [self.names.head(stage, partition) for partition in range(partitions)]


@contextlib.contextmanager
def inspect(name: str) -> Iterator[Usecase]:
    """Open what is needed to look at a use case; NotReady when Kafka or Redis does not answer."""
    conf = settings()
    problem = kafka.problem(conf.kafka) or redis.problem(conf.redis_url)
    if problem:
        raise NotReady(problem)
    plan = Plan.of(load_usecase(name, conf.usecases))
    with batch_topics.Cluster(conf.kafka) as cluster, redis.client(conf.redis_url, text=False) as store:
        generation = int(store.get(Names(name, prefix=conf.topic_prefix).current_generation) or 1)
        yield Usecase(plan, Names(name, generation, conf.topic_prefix), conf, cluster, store)
