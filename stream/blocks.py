"""Blocks on their way between stages: which rows are new, and how outputs are cut.

A block says from which sources its rows come, one after another, and after which position of each source, to this
destination, they follow. Rows at or below the last applied position were applied before; rows that follow a position
above it mean a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskflow.columns import Columns, Text, n_rows, take
from riskflow.errors import Leave
from riskflow.state import BLOCK_BYTES, BLOCK_ROWS, log_columns, row_position, source_name
from riskflow.wire import Header, decode_all, encode_parts
from stream.batch import Sent
from stream.outbox import Outbox


@dataclass
class Source:
    """Rows [first, end) of a pass come from one partition of a stage's log.

    `after` is the last position of it that this destination was sent.
    """

    stage: str
    partition: int
    after: int
    first: int
    end: int


@dataclass(frozen=True)
class Found:
    """A block as it stands on a log; `applied` is its partition's, and moves forward."""

    partition: int
    offset: int
    value: bytes
    applied: dict[str, int]


def received(stage: str, found: Sequence[Found]) -> list[Columns]:
    """The rows not applied before, with their positions in these logs; a table for each set of columns that comes.

    Raises Leave when rows are missing between the last applied one and a block; ValueError for what is no block.
    """
    out, at = [], 0
    for columns, headers in decode_all([f.value for f in found]):
        mine = found[at : at + len(headers)]
        at += len(headers)
        fresh = np.ones(n_rows(columns), np.bool_)
        first = 0
        for block, header in zip(mine, headers, strict=True):
            _check(stage, block, header, columns, first, fresh)
            first += header.rows
        _locate(stage, mine, headers, columns)
        chosen = None if fresh.all() else np.flatnonzero(fresh)
        if chosen is None or len(chosen):
            out.append(columns if chosen is None else take(columns, chosen))
    return out


def _check(stage: str, block: Found, header: Header, columns: Columns, at: int, fresh: NDArray[np.bool_]) -> None:
    """Marks the rows of a block that were applied before; raises Leave when some are missing before it."""
    positions: Any = columns[header.meta["by"]]
    for source, after, rows in header.meta["from"]:
        last = block.applied.get(source, -1)
        if after > last:
            raise Leave(
                f"stage {stage!r}, partition {block.partition}, offset {block.offset}: the block follows position "
                f"{after} of {source}, but only {last} was applied: rows are missing. Run `riskflow rebuild`."
            )
        if positions[at] <= last:
            fresh[at : at + rows] = positions[at : at + rows] > last
        block.applied[source] = max(last, int(positions[at + rows - 1]))
        at += rows


def _locate(stage: str, found: Sequence[Found], headers: Sequence[Header], columns: Columns) -> None:
    log, part = log_columns(stage)
    rows = [h.rows for h in headers]
    begin = np.cumsum([0, *rows[:-1]])
    origin = np.array([row_position(f.offset) for f in found], np.int64) - begin
    columns[log] = np.repeat(origin, rows) + np.arange(n_rows(columns), dtype=np.int64)
    columns[part] = np.repeat(np.array([f.partition for f in found], np.int32), rows)


def cut(
    columns: Columns, parts: Sequence[Sequence[Source]], *, by: str, epochs: Sequence[int] = ()
) -> list[list[bytes]]:
    """For each part its blocks, of at most 4,096 rows and about 512 KiB, each following the one before.

    parts: for each destination the sources of its rows, which stand together. by: the column of positions in them.
    epochs: of each part, where readers ask for it. Moves `after` of the sources forward.
    """
    n = n_rows(columns)
    step = max(1, min(BLOCK_ROWS, BLOCK_BYTES * n // max(1, size_bytes(columns))))
    positions: Any = columns[by]
    bounds, metas, counts = [], [], []
    for sources, epoch in zip_longest(parts, epochs):
        said = {} if epoch is None else {"epoch": epoch}
        before, end = len(bounds), sources[-1].end
        for first in range(sources[0].first, end, step):
            bounds.append((first, min(first + step, end)))
            metas.append({"from": _from(sources, positions, *bounds[-1]), "by": by, **said})
        counts.append(len(bounds) - before)
    blocks = iter(encode_parts(columns, bounds, metas))
    return [list(islice(blocks, count)) for count in counts]


def _from(sources: Sequence[Source], positions: Any, first: int, end: int) -> list[tuple[str, int, int]]:
    said = []
    for source in sources:
        a, b = max(first, source.first), min(end, source.end)
        if a < b:
            said.append((source_name(source.stage, source.partition), source.after, b - a))
            source.after = int(positions[b - 1])
    return said


def size_bytes(columns: Mapping[str, Any]) -> int:
    """Roughly what the columns take when encoded."""
    return sum(len(c.data) + 4 * len(c) if isinstance(c, Text) else c.nbytes for c in columns.values())


@dataclass(frozen=True)
class Onward:
    """From one stage to the next one's log."""

    stage: str
    part: str  # column: partition in this stage's log
    log: str  # column: position in it
    to_stage: str
    topic: str

    async def send(self, columns: Columns, to: NDArray[np.int64], sent: Sent, outbox: Outbox) -> None:
        """Rows to their partitions of the topic; rows of one source stand together. Moves `sent` forward."""
        order = np.argsort(to, kind="stable")
        rows = take(columns, order) if (order[1:] < order[:-1]).any() else columns
        destinations = self._destinations(to[order], rows[self.part], sent)
        parts = cut(rows, list(destinations.values()), by=self.log)
        for (partition, sources), blocks in zip(destinations.items(), parts, strict=True):
            await outbox.send(self.topic, partition, [(None, block) for block in blocks])
            for source in sources:
                sent[source.partition][source_name(self.to_stage, partition)] = source.after

    def _destinations(self, to: NDArray[np.int64], part: Any, sent: Sent) -> dict[int, list[Source]]:
        """Partition of the topic -> the sources of its rows, in order."""
        changes = np.flatnonzero((to[1:] != to[:-1]) | (part[1:] != part[:-1])) + 1
        out: dict[int, list[Source]] = {}
        for first, end in pairwise([0, *changes.tolist(), len(to)]):
            destination, source = int(to[first]), int(part[first])
            after = sent[source].get(source_name(self.to_stage, destination), -1)
            out.setdefault(destination, []).append(Source(self.stage, source, after, first, end))
        return out
