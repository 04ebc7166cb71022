"""What the broker says of our topics: ids and partitions at start and at each claim, ids again every few seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from riskflow.errors import NotReady
from riskflow.names import Names
from stream.topic_ids import TopicsRequest

log = structlog.get_logger(__name__)
ASK_MS = 3_000
ANSWER_S = 20.0  # by then at the latest a start needs to know
RETRY_S = 0.2
AWAY = (KafkaError, OSError, RuntimeError, asyncio.TimeoutError)  # RuntimeError: uvloop's word for a reset connection


@dataclass(frozen=True)
class TopicInfo:
    """`topic_id` changes when a topic is deleted and made again; positions belong to one id."""

    topic_id: str
    partitions: int


async def describe(ids: TopicIds, topics: Iterable[str], command: str) -> dict[str, TopicInfo]:
    """Ids and partitions of topics; raises NotReady naming `command` when one is missing."""
    wanted = list(topics)
    found = await ids.described(wanted)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise NotReady(f"topics missing on {ids.bootstrap}: {', '.join(missing)}. Run `{command}`.")
    return found


async def check_newest(ids: TopicIds, names: Names, first: str, beside: int) -> None:
    """Raises NotReady when workers have begun a later generation than the one that Redis names.

    first: the first entity. Its log is written by workers alone; those of later ones a rebuild that then failed, too.
    beside: a generation that is made while this one scores; 0: there is none.
    """
    there = await ids.described(None)
    behind = {t: g for t in there if (g := names.generation_of(t, first)) is not None and g > names.generation}
    later = await asyncio.to_thread(_newest_written, ids.bootstrap, behind) if behind else None
    if later is not None and later != beside:
        raise NotReady(
            f"Redis says that {names.usecase} is at generation {names.generation}, and Kafka has blocks of generation "
            f"{later}: this Redis is older than its rebuild. If it is not the right one, set RISKFLOW_REDIS_URL; else "
            f"run `riskflow rebuild {names.usecase}`."
        )


def _newest_written(bootstrap: str, generations: dict[str, int]) -> int | None:
    """The newest of these topics' generations of which the log holds anything."""
    from kafka import KafkaConsumer, TopicPartition  # takes 0.2 s, which most starts need not spend

    consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","), enable_auto_commit=False)
    try:
        for topic, generation in sorted(generations.items(), key=itemgetter(1), reverse=True):
            tps = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            if any(consumer.end_offsets(tps).values()):
                return generation
    finally:
        consumer.close()
    return None


class TopicIds:
    """Asks about topics again and again over one connection, which is made at the first question."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._client: AIOKafkaClient | None = None
        self._turn = asyncio.Lock()
        self._silent = False

    async def of(self, topics: Iterable[str]) -> dict[str, str]:
        """Name -> id of those that are there; nothing while Kafka does not answer: that is no other topic."""
        try:
            found = await self._ask(list(topics))
            self._silent = False
            return {name: info.topic_id for name, info in found.items()}
        except AWAY as error:
            if not self._silent:
                log.warning("cannot ask for the ids of topics", error=repr(error))
            self._silent = True
            return {}

    async def described(self, topics: list[str] | None) -> dict[str, TopicInfo]:
        """Those of these topics (None: of all) that are there; raises when Kafka does not answer for long."""
        until = time.monotonic() + ANSWER_S
        while True:
            try:
                return await self._ask(topics)
            except AWAY:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _ask(self, topics: list[str] | None) -> dict[str, TopicInfo]:
        async with self._turn:
            try:
                client = await self._connected()
                answer = await client.send(client.get_random_node(), TopicsRequest(topics))
            except AWAY:
                await self.close()
                raise
        return {
            name: TopicInfo(str(topic_id), len(partitions))
            for error, name, topic_id, _, partitions, *_ in answer.topics
            if not error
        }

    async def _connected(self) -> AIOKafkaClient:
        if self._client is None:
            self._client = AIOKafkaClient(
                client_id="riskflow-describe", bootstrap_servers=self.bootstrap, request_timeout_ms=ASK_MS
            )
            await self._client.bootstrap()
        return self._client
