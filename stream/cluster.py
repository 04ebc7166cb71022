"""What the broker says of our topics: ids and numbers of partitions. Asked for at start and at each claim."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from kafka.admin import KafkaAdminClient

from riskflow.errors import NotReady


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


def _describe(bootstrap: str, topics: list[str]) -> dict[str, TopicInfo]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","), client_id="riskflow-describe")
    try:
        answer = admin.describe_topics(topics)
        return {t["name"]: TopicInfo(str(t["topic_id"]), len(t["partitions"])) for t in answer if not t["error_code"]}
    finally:
        admin.close()
