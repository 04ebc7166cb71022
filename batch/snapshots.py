"""Snapshots of drift as workers have sent them: read from their topic, merged."""

from __future__ import annotations

import msgspec

from batch.read_log import read_log
from batch.topics import Cluster
from riskflow.drift import Snapshot, merge
from riskflow.errors import NotReady
from riskflow.names import Names
from riskflow.settings import Settings


def read_snapshots(conf: Settings, names: Names) -> list[Snapshot]:
    """All that the topic still has; raises NotReady where it is missing. What is no snapshot is left out."""
    with Cluster(conf.kafka) as cluster:
        there = cluster.topics()
        if names.drift not in there:
            raise NotReady(f"topic {names.drift} is missing. Run `riskflow topics {names.usecase}`.")
        ranges = cluster.log_ranges({names.drift: there[names.drift][1]})
    todo = {partition: bounds for (_, partition), bounds in ranges.items() if bounds[0] < bounds[1]}
    found = read_log(conf.kafka, names.drift, todo) if todo else ()
    return [one for _, records, _, _ in found for record in records if (one := _snapshot(record.value)) is not None]


def counted(snapshots: list[Snapshot], content_hash: str, from_ms: int | None, to_ms: int | None) -> Snapshot | None:
    """What was counted of a bundle between two moments of the wall clock; None when nothing was.

    from_ms None: since the beginning. A snapshot counts when it ends in [from_ms, to_ms).
    """
    mine = [s for s in snapshots if s.hash == content_hash]
    since = [s for s in mine if (from_ms is None or s.to_ms >= from_ms) and (to_ms is None or s.to_ms < to_ms)]
    return merge(since)


def _snapshot(value: bytes | None) -> Snapshot | None:
    try:
        return msgspec.json.decode(value or b"", type=Snapshot)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
