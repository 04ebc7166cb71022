"""`riskflow park`: takes one block or message out of a stage's log, when a worker ends at it again and again.

Its offset is written into the head, which makes workers pass over it and say so on `rejected`; its bytes are kept in
the lake, because the log forgets them, and rebuild and parity must know which rows stopped where.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.generations import Generations, present_generation
from batch.read_log import Record, read_at
from batch.stopped import wait_until_stopped
from batch.topics import Cluster, stages
from riskflow.columns import n_rows
from riskflow.connect import connect
from riskflow.errors import NotReady, RiskflowError
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.record_batches import first_offset
from riskflow.settings import Settings
from riskflow.wire import decode

PARKED = "parked"  # field of a head: JSON list of offsets that its stage passes over


@dataclass(frozen=True)
class ParkedBlock:
    """What was taken out."""

    stage: str
    partition: int
    offset: int
    rows: int
    kept: Path
    new: bool


def park(plan: Plan, conf: Settings, stage: str, partition: int, offset: int) -> ParkedBlock:
    """Marks an offset in a stopped stage's head; a second time is harmless.

    Raises RiskflowError for a stage, partition or offset that is not there, NotReady when a worker runs.
    """
    store = connect(conf.redis_url)
    generations = Generations(plan, Names(plan.name, prefix=conf.topic_prefix), conf.lake_folder)
    names = generations.at(present_generation(store, generations))
    topics = {s: t for s, t, _ in stages(plan, names)}
    if stage not in topics:
        raise RiskflowError(f"park: {plan.name} has no stage {stage!r}. There are: {', '.join(topics)}.")
    head = _head(store, names, stage, partition)
    if offset < int(head["position"]):
        raise RiskflowError(
            f"park: stage {stage!r}, partition {partition} has passed offset {offset}, it is at {head['position']}: "
            "nothing waits there. Take the offset that the worker's last line names."
        )
    with Cluster(conf.kafka) as cluster:
        wait_until_stopped(cluster, names)  # a running worker does not look at its head again
        record = _record(cluster, conf.kafka, topics[stage], partition, offset)
    value, offset = bytes(record.value or b""), first_offset(record)
    kept = _keep(generations.folder(names.generation) / PARKED, f"{stage}-{partition}-{offset}.block", value)
    parked = set(json.loads(head.get(PARKED, "[]")))
    store.hset(names.head(stage, partition), PARKED, json.dumps(sorted({*parked, offset})))
    return ParkedBlock(stage, partition, offset, _rows(record), kept, offset not in parked)


def _head(store: Any, names: Names, stage: str, partition: int) -> dict[str, str]:
    head = {k.decode(): v.decode() for k, v in store.hgetall(names.head(stage, partition)).items()}
    if not head:
        raise NotReady(
            f"no head for stage {stage!r}, partition {partition} of generation {names.generation} in Redis. "
            f"Run `riskflow topics {names.usecase}`."
        )
    return head


def _record(cluster: Cluster, kafka: str, topic: str, partition: int, offset: int) -> Record:
    there = cluster.topics()
    if topic not in there or not 0 <= partition < there[topic][1]:
        raise RiskflowError(f"park: there is no topic {topic} with a partition {partition}.")
    first, end = cluster.log_ranges({topic: there[topic][1]})[topic, partition]
    if not first <= offset < end:
        raise RiskflowError(f"park: {topic}, partition {partition} holds offsets {first} to {end - 1}, not {offset}.")
    found = read_at(kafka, topic, [(partition, offset)])
    if not found:
        raise RiskflowError(f"park: {topic}, partition {partition} has no message at offset {offset}.")
    return found[partition, offset]


def _keep(folder: Path, name: str, value: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}"
    temporary.write_bytes(value)
    return temporary.rename(folder / name)


def _rows(record: Record) -> int:
    """Rows of a block; a producer's message is one, a batch that cannot be read has as many as offsets."""
    try:
        return n_rows(decode(record.value or b"")[0])
    except ValueError:
        return int(record.offset) - first_offset(record) + 1
