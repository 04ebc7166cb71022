"""What the broker says of our topics: ids and partitions at start and at each claim, ids again every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from riskflow.errors import NotReady
from riskflow.names import Names

log = structlog.get_logger(__name__)
ASK_MS = 3_000


@dataclass(frozen=True)
class TopicInfo:
    """`topic_id` changes when a topic is deleted and made again; positions belong to one id."""

    topic_id: str
    partitions: int


async def describe(bootstrap: str, topics: Iterable[str], command: str) -> dict[str, TopicInfo]:
    """Ids and partitions of topics; raises NotReady naming `command` when one is missing."""
    wanted = list(topics)
    found = await asyncio.to_thread(_describe, bootstrap, wanted)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise NotReady(f"topics missing on {bootstrap}: {', '.join(missing)}. Run `{command}`.")
    return found


async def check_newest(bootstrap: str, names: Names, first: str, beside: int) -> None:
    """Raises NotReady when workers have begun a later generation than the one that Redis names.

    first: the first entity. Its log is written by workers alone; those of later ones a rebuild that then failed, too.
    beside: a generation that is made while this one scores; 0: there is none.
    """
    later = await asyncio.to_thread(_later_generation, bootstrap, names, first)
    if later is not None and later != beside:
        raise NotReady(
            f"Redis says that {names.usecase} is at generation {names.generation}, and Kafka has blocks of generation "
            f"{later}: this Redis is older than its rebuild. If it is not the right one, set RISKFLOW_REDIS_URL; else "
            f"run `riskflow rebuild {names.usecase}`."
        )


def _later_generation(bootstrap: str, names: Names, first: str) -> int | None:
    """The newest generation behind this one of which the first entity's log holds anything."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","), enable_auto_commit=False)
    try:
        found = {g: topic for topic in consumer.topics() if (g := names.generation_of(topic, first)) is not None}
        for generation in sorted((g for g in found if g > names.generation), reverse=True):
            topic = found[generation]
            tps = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            if any(consumer.end_offsets(tps).values()):
                return generation
    finally:
        consumer.close()
    return None


class TopicIds:
    """Asks for ids again and again over one connection: 0.7 ms of CPU each time, where a new one costs 5 ms."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap.split(",")
        self._admin: KafkaAdminClient | None = None
        self._silent = False

    async def of(self, topics: Iterable[str]) -> dict[str, str]:
        """Name -> id of those that are there; nothing while Kafka does not answer: that is no other topic."""
        try:
            found = await asyncio.to_thread(self._ask, list(topics))
            self._silent = False
            return found
        except Exception as error:
            if not self._silent:
                log.warning("cannot ask for the ids of topics", error=repr(error))
            self._silent = True
            return {}

    def _ask(self, topics: list[str]) -> dict[str, str]:
        if self._admin is None:
            self._admin = _admin(self._bootstrap, bootstrap_timeout_ms=ASK_MS, request_timeout_ms=ASK_MS)
        answer = self._admin.describe_topics(topics)
        return {t["name"]: str(t["topic_id"]) for t in answer if not t["error_code"]}


def _admin(bootstrap: list[str], **options: int) -> KafkaAdminClient:
    return KafkaAdminClient(bootstrap_servers=bootstrap, client_id="riskflow-describe", **options)


def _describe(bootstrap: str, topics: list[str]) -> dict[str, TopicInfo]:
    admin = _admin(bootstrap.split(","))
    try:
        answer = admin.describe_topics(topics)
        return {t["name"]: TopicInfo(str(t["topic_id"]), len(t["partitions"])) for t in answer if not t["error_code"]}
    finally:
        admin.close()
