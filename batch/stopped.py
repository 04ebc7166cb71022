"""Whether workers run: what rewrites their state waits until Kafka's group is empty."""

from __future__ import annotations

import time

from kafka.errors import KafkaError

from batch.topics import Cluster
from riskflow.errors import NotReady
from riskflow.names import Names

MEMBERS_LEAVE_S = 20.0  # Kafka keeps a stopped worker's place for its session's 10 s


def members(cluster: Cluster, group: str) -> list[str]:
    """Who works in a consumer group now; a worker that was killed is a member until its session ends."""
    try:
        found = cluster.admin.describe_groups([group])[group]
    except KafkaError:
        return []  # no such group: nobody has ever worked
    return sorted(str(m.get("group_instance_id") or m["member_id"]) for m in found.get("members") or [])


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
