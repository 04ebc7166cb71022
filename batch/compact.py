"""Compaction: many small files of one topic, partition and day become one, with the same rows in the same order.

The archive writes a file at each run, so a day leaves many. They are merged once the day is over. The merged file's
name covers their offsets, and readers take the longest file of those that begin together (batch/lake.py): from the
moment it is in place it is what is read, and the small ones are not looked at any more. They go in a later run, when
every reader that may have listed them has ended. So a kill at any moment loses nothing, and nothing is read twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from batch import lake
from batch.lake import Part
from batch.pipeline_dags import Maintain
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import Settings

GRACE_S = 3600.0  # how long a reader may take that has listed files before they were merged
MB = 1024 * 1024


@dataclass
class Compacted:
    """What a run has done; `broken` are files that cannot be read: they are named and left where they are."""

    merged: int = 0
    made: int = 0
    dropped: int = 0
    broken: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"merged": self.merged, "made": self.made, "dropped": self.dropped, "broken": self.broken}


def compact(plan: Plan, conf: Settings, maintain: Maintain, grace_s: float = GRACE_S) -> dict[str, Any]:
    """Compacts every topic of the use case; the archive waits meanwhile."""
    out, today = Compacted(), datetime.now(UTC).strftime("%Y-%m-%d")
    with lake.locked(conf.lake_folder, plan.name):
        for folder in lake.topic_folders(conf.lake_folder, Names(plan.name, prefix=conf.topic_prefix)):
            compact_topic(conf.lake_folder, folder.name, out, today, maintain.largest_mb * MB, grace_s)
    return out.summary()


def compact_topic(
    folder: Path, topic: str, out: Compacted, today: str, largest: int = 128 * MB, grace_s: float = GRACE_S
) -> None:
    """One topic; days from `today` on are not over yet. Whoever calls it holds the lake's lock."""
    for left in (folder / topic).glob("date=*/.*.tmp"):
        left.unlink()  # of a run that was killed
    for path in superseded(folder, topic, grace_s):
        path.unlink()
        out.dropped += 1
    for group in groups(lake.parts(folder, topic), today, largest, out.broken):
        _merge(group)
        out.merged += len(group)
        out.made += 1


def superseded(folder: Path, topic: str, grace_s: float) -> list[Path]:
    """Files of which nothing is read: one file has all their offsets, can be read, and has been there for a while."""
    used = lake.parts(folder, topic)
    sound: dict[Path, bool] = {}
    out = []
    for path, partition, first, last in lake.named(folder, topic):
        over = next((p for p in used if p.partition == partition and p.first <= first and last <= p.last), None)
        if over is None or over.path == path:
            continue
        if over.path not in sound:
            sound[over.path] = time.time() - over.path.stat().st_mtime >= grace_s and _readable(over.path)
        if sound[over.path]:
            out.append(path)
    return out


def groups(parts: list[Part], today: str, largest: int, broken: list[str]) -> Iterator[list[Part]]:
    """Runs of two and more files that may become one: same day and partition, no gap, same columns, not too large."""
    group: list[Part] = []
    size, shape = 0, None
    for part in parts:
        bytes_, mine = part.path.stat().st_size, _shape(part, broken)
        fits = group and _follows(group[-1], part) and mine == shape and size + bytes_ <= largest
        if group and not fits:
            if len(group) > 1:
                yield group
            group = []
        over = part.path.parent.name < f"date={today}"
        if mine is not None and over and not part.clipped and bytes_ <= largest // 2:
            group, size, shape = [*group, part], (size if group else 0) + bytes_, mine
    if len(group) > 1:
        yield group


def _follows(before: Part, part: Part) -> bool:
    same = (before.partition, before.path.parent) == (part.partition, part.path.parent)
    return same and part.first == before.last + 1


def _shape(part: Part, broken: list[str]) -> Any:
    """Names and types of a file's columns; None for one that cannot be read."""
    try:
        return tuple(pl.read_parquet_schema(part.path).items())
    except (pl.exceptions.PolarsError, OSError):
        broken.append(str(part.path))
        return None


def _readable(path: Path) -> bool:
    try:
        pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError):
        return False
    return True


def _merge(group: list[Part]) -> None:
    """Writes the merged file under a temporary name, reads it back, then puts it in place in one step."""
    frame = pl.concat([pl.read_parquet(p.path, hive_partitioning=False) for p in group])
    name = lake.part_name(group[0].partition, group[0].first, group[-1].last)
    temporary = group[0].path.with_name(f".{name}.tmp")
    with temporary.open("wb") as file:
        frame.write_parquet(file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    if not pl.read_parquet(temporary, hive_partitioning=False).equals(frame):
        raise OSError(f"{temporary} does not hold what was written to it: look at the disk")
    temporary.rename(group[0].path.with_name(name))
