"""Entities that do not come back, as batch meets them: their records may be gone from Redis, or not yet.

A generation begins with one watermark for each stage: the newest day that any of the records it begins with was touched
at. All its partitions go on from there, so it follows from the records alone, in Redis as in a replay.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from riskflow.columns import Columns
from riskflow.evaluate import partitions_of
from riskflow.plan import Plan, Stage
from riskflow.records import touched_days
from riskflow.windows import dead

Records = Mapping[bytes, bytes]


def first_watermark(records: Records) -> int:
    """Where the partitions of a stage begin on top of these records."""
    return int(touched_days(list(records.values())).max(initial=0))


def first_watermarks(stage: Stage, columns: Columns, records: Records) -> dict[int, int]:
    """The same for each partition that these rows came in."""
    return dict.fromkeys(np.unique(partitions_of(stage, columns)).tolist(), first_watermark(records))


def without_dead(plan: Plan, records: Mapping[str, Records]) -> dict[str, dict[bytes, bytes]]:
    """The records that say anything at the watermark that a generation of them begins with."""
    return {stage.entity.field: _living(stage, records[stage.entity.field]) for stage in plan.stages}


def _living(stage: Stage, records: Records) -> dict[bytes, bytes]:
    gone = dead(stage.layout, list(records.values()), first_watermark(records)).tolist()
    return {entity: record for (entity, record), is_dead in zip(records.items(), gone, strict=True) if not is_dead}


def differing(stage: Stage, expected: Records, found: Records, watermark: int) -> int:
    """How many records of a partition are not the expected bytes; a dead one may be there, or deleted."""
    wrong = sum(expected.get(entity) != record for entity, record in found.items())
    missing = [expected[entity] for entity in expected.keys() - found.keys()]
    return wrong + int((~dead(stage.layout, missing, watermark)).sum())
