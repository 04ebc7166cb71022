"""What a person took out of a log, as rebuild and parity see it: rows that stop before a stage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batch.generations import Generations
from batch.unfinished import full, located
from riskflow.columns import Columns, n_rows
from riskflow.plan import Plan
from riskflow.state import ROW_BITS, log_columns

_NAME = re.compile(r"([a-z0-9_]+)-(\d+)-(\d+)\.block")


@dataclass
class Parked:
    """Blocks of internal logs, as they stood there, and where."""

    places: list[tuple[str, int, int]] = field(default_factory=list)  # stage, partition, offset
    blocks: list[Columns] = field(default_factory=list)

    def stopped(self, plan: Plan, rows: Columns) -> dict[int, Any]:
        """Stage number -> rows that were taken out there."""
        out: dict[int, Any] = {}
        for stage, partition, offset in self.places:
            log, part = (np.asarray(rows[c]) for c in log_columns(stage))
            k = plan.entities.index(stage)
            mine = np.flatnonzero((part == partition) & (log >> ROW_BITS == offset))
            out[k] = np.concatenate([out.get(k, np.zeros(0, np.int64)), mine])
        return out


def read_parked(generations: Generations, generation: int) -> Parked:
    """The parked blocks of a generation; messages of a feed that were parked were never rows."""
    out, plan = Parked(), generations.plan
    for path in sorted((generations.folder(generation) / "parked").glob("*.block")):
        match = _NAME.fullmatch(path.name)
        if match and match.group(1) in plan.entities:
            stage, partition, offset = match.group(1), int(match.group(2)), int(match.group(3))
            block = located(stage, partition, offset, path.read_bytes())
            if n_rows(block):
                out.places.append((stage, partition, offset))
                out.blocks.append(full(plan, block))
    return out


def parked_messages(generations: Generations, generation: int) -> set[tuple[str, int, int]]:
    """(feed, partition, offset) of parked messages of feeds."""
    found = (_NAME.fullmatch(p.name) for p in (generations.folder(generation) / "parked").glob("*.block"))
    places = {(m.group(1), int(m.group(2)), int(m.group(3))) for m in found if m}
    return {p for p in places if p[0] not in generations.plan.entities}
