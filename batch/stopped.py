"""Whether workers run: what rewrites their state waits until Kafka's group is empty."""

from __future__ import annotations

import time
from typing import Any

from kafka.errors import GroupIdNotFoundError, KafkaError

from batch.topics import Cluster
from riskflow.errors import NotReady
from riskflow.names import Names

MEMBERS_LEAVE_S = 20.0  # Kafka keeps a stopped worker's place for its session's 10 s
ANSWER_S = 15.0  # a group's coordinator may just be starting, or move to another broker
_NO_SUCH_GROUP = f"[Error {GroupIdNotFoundError.errno}]"  # how an answer's text begins


def members(cluster: Cluster, group: str) -> list[str]:
    """Who works in a consumer group now; a worker that was killed is a member until its session ends.

    Raises NotReady when Kafka cannot say: no answer is not an empty group.
    """
    until = time.monotonic() + ANSWER_S
    while True:
        found, error = _described(cluster, group)
        if not error:
            return sorted(str(m.get("group_instance_id") or m["member_id"]) for m in found.get("members") or [])
        if time.monotonic() > until:
            raise NotReady(
                f"Kafka cannot say who works in group {group}: {error}. Without that nothing is rewritten. "
                "See `riskflow doctor`, then run this again."
            )
        time.sleep(0.5)


def _described(cluster: Cluster, group: str) -> tuple[dict[str, Any], str]:
    """What Kafka says of a group, and why it cannot; one that it does not know has no members."""
    try:
        found: dict[str, Any] = cluster.admin.describe_groups([group])[group]
    except GroupIdNotFoundError:
        return {}, ""
    except KafkaError as error:
        return {}, str(error)
    error = str(found.get("error") or "")
    return (found, "") if error.startswith(_NO_SUCH_GROUP) else (found, error)


def wait_until_stopped(cluster: Cluster, names: Names) -> None:
    """Returns when no worker is in the group any more; raises NotReady naming those that stay."""
    until = time.monotonic() + MEMBERS_LEAVE_S
    while working := members(cluster, names.group):
        if time.monotonic() > until:
            raise NotReady(
                f"workers of {names.usecase} are running ({', '.join(working)}). Stop them, then run this again; "
                "events wait on Kafka meanwhile."
            )
        time.sleep(0.5)
