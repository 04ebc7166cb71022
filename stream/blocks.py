"""Blocks on their way between stages: which rows are new, and how outputs are cut.

A block says from which source it comes and after which position of that source, to this destination, it follows. Rows
at or below the last applied position were applied before; a block that follows a position above it means a gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskflow.columns import Columns, Text, decode, encode, n_rows, take
from riskflow.errors import Leave
from riskflow.state import BLOCK_BYTES, BLOCK_ROWS, log_columns, row_position


def received(value: bytes, offset: int, stage: str, partition: int, applied: dict[str, int]) -> Columns | None:
    """The rows of a block not applied before, with their positions in this log; moves `applied` forward.

    Raises Leave when rows are missing between the last applied one and this block.
    """
    columns, meta = decode(value)
    source, by = meta["source"], meta["by"]
    last = applied.get(source, -1)
    if meta["after"] > last:
        raise Leave(
            f"stage {stage!r}, partition {partition}, offset {offset}: the block follows position {meta['after']} of "
            f"{source}, but only {last} was applied: rows are missing. Run `riskflow rebuild`."
        )
    positions: Any = columns[by]
    fresh = np.flatnonzero(positions > last)
    if not len(fresh):
        return None
    log, part = log_columns(stage)
    columns[log] = row_position(offset) + np.arange(len(positions), dtype=np.int64)
    columns[part] = np.full(len(positions), partition, np.int32)
    applied[source] = int(positions[-1])
    return columns if len(fresh) == len(positions) else take(columns, fresh)


def cut(columns: Columns, *, source: str, by: str, after: int, epoch: int) -> Iterator[bytes]:
    """Encoded blocks of at most 4,096 rows and about 512 KiB, each following the one before."""
    n = n_rows(columns)
    step = max(1, min(BLOCK_ROWS, BLOCK_BYTES * n // max(1, size_bytes(columns))))
    positions: Any = columns[by]
    for first in range(0, n, step):
        rows = np.arange(first, min(first + step, n))
        part = columns if len(rows) == n else take(columns, rows)
        yield encode(part, {"source": source, "by": by, "after": after, "epoch": epoch})
        after = int(positions[rows[-1]])


def size_bytes(columns: Mapping[str, Any]) -> int:
    """Roughly what the columns take when encoded."""
    return sum(len(c.data) + 4 * len(c) if isinstance(c, Text) else c.nbytes for c in columns.values())


def by_destination(partitions: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(partition, its rows in order) for each partition that gets any."""
    order = np.argsort(partitions, kind="stable")
    sorted_ = partitions[order]
    bounds = np.flatnonzero(np.diff(sorted_)) + 1
    for rows in np.split(order, bounds):
        if len(rows):
            yield int(partitions[rows[0]]), rows
