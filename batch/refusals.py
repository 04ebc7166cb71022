"""What a rebuild refuses in the place of a stage that had not said it yet, as the stream says it on `rejected`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from batch.lake import read_topic
from batch.produce import producer
from batch.unfinished import Taken
from riskflow.columns import Columns
from riskflow.declare import Feed
from riskflow.evaluate import ID, KIND
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.record_batches import first_offset
from riskflow.settings import Settings
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, ROW_BITS

REFUSED_BYTES = 900_000  # of a message; a record here can be no larger than 1 MiB
Refusal = tuple[bytes, bytes, list[tuple[str, bytes]]]  # key, value, headers


def refuse(plan: Plan, names: Names, conf: Settings, taken: Taken, rows: Columns, conflicts: list[int]) -> int:
    """Sends what intake and the first stage would have refused, unless they have; how many there were.

    conflicts: rows whose id was seen with other content.
    """
    found = [
        _refusal(
            names, f, partition, first_offset(r), e.kind, e.detail, e.where, f.name, (r.value or b"")[:REFUSED_BYTES]
        )
        for partition, r, e, f in taken.rejected
    ]
    found += [_conflict(plan, names, rows, row) for row in conflicts]
    said = read_topic(conf.lake_folder, names.rejected)
    known = set(said["_key"].to_list()) if len(said) else set()
    new = [f for f in found if f[0] not in known]
    if new:
        client = producer(conf.kafka)
        for key, value, headers in new:
            client.send(names.rejected, value, key, headers, 0)
        client.flush()
        client.close()
    return len(new)


def _conflict(plan: Plan, names: Names, rows: Columns, row: int) -> Refusal:
    feed = plan.usecase.feeds[int(np.asarray(rows[KIND])[row])]
    partition = int(np.asarray(rows[INTAKE_PARTITION])[row])
    offset = int(np.asarray(rows[INTAKE_LOG])[row]) >> ROW_BITS
    ids: Any = rows[ID]
    name = ids.take(np.array([row])).strings()[0]
    value = json.dumps({"id": name, "feed": feed.name, "partition": partition, "offset": offset}).encode()
    detail = f"id {name!r} was seen with other content"
    return _refusal(names, feed, partition, offset, "id_conflict", detail, "$", plan.entities[0], value)


def _refusal(
    names: Names, feed: Feed, partition: int, offset: int, kind: str, detail: str, where: str, stage: str, value: bytes
) -> Refusal:
    """Key, value and headers of a record on `rejected`, as the stream writes them."""
    said = {
        "error-type": kind, "error-detail": detail, "error-where": where, "stage": stage,
        "source-topic": names.feed(feed.name), "source-partition": str(partition), "source-offset": str(offset),
    }  # fmt: skip
    headers = [(k, v.encode(errors="replace")) for k, v in said.items()]
    return f"{feed.name}:{partition}:{offset}".encode(), value, headers
