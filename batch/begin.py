"""What a generation begins with in Redis: the records of all entities, and a head for each partition of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batch.dead import first_watermark
from batch.replay import Records
from batch.topics import stages
from riskflow.columns import Text, partition_of
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.state import BEHIND, new_head

FIELDS_A_COMMAND, COMMANDS_A_FLUSH = 500, 20


def write_records(store: Any, names: Names, records: Mapping[str, Records], partitions: int) -> None:
    """Replaces the records of every stage, each in the partition of its entity."""
    for stage, found in records.items():
        ids = list(found)
        to = partition_of(Text.of(ids), partitions).tolist() if ids else []
        by_key: dict[str, list[tuple[bytes, bytes]]] = {names.records(stage, p): [] for p in range(partitions)}
        for name, partition in zip(ids, to, strict=True):
            by_key[names.records(stage, partition)].append((b"e:" + name, found[name]))
        write_hashes(store, by_key)


def write_heads(
    store: Any,
    plan: Plan,
    names: Names,
    topics: Mapping[str, tuple[str, int]],
    positions: Mapping[tuple[str, int], int],
    records: Mapping[str, Records],
    behind: int | None = None,
) -> None:
    """New heads: intake's at these positions, those of internal logs at their beginning.

    topics: name -> (topic id, partitions). records: those that the generation begins with. behind: the generation that
    scores as long as this one runs beside it.
    """
    pipe = store.pipeline(transaction=False)
    for stage, topic, internal in stages(plan, names):
        topic_id, partitions = topics[topic]
        watermark = first_watermark(records[stage]) if internal else 0
        for p in range(partitions):
            position = 0 if internal else positions.get((stage, p), 0)
            head = new_head(position, topic_id, plan.layout_fingerprint, watermark)
            if behind is not None and not internal:
                head[BEHIND] = behind
            pipe.delete(names.head(stage, p))
            pipe.hset(names.head(stage, p), mapping=head)
    pipe.execute()


def write_hashes(store: Any, hashes: Mapping[str, list[tuple[bytes, bytes]]]) -> None:
    """Replaces hashes by these fields, many in one round trip."""
    pipe = store.pipeline(transaction=False)
    for key, pairs in hashes.items():
        pipe.delete(key)
        for first in range(0, len(pairs), FIELDS_A_COMMAND):
            pipe.hset(key, mapping=dict(pairs[first : first + FIELDS_A_COMMAND]))
            if len(pipe) >= COMMANDS_A_FLUSH:
                pipe.execute()
    pipe.execute()
