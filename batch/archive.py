"""`riskflow archive`: reads a use case's topics from where the lake ends to the log's end, into Parquet.

Each file is written under a temporary name and renamed; its name says which offsets it holds. So a second run adds
nothing, and one that was killed is continued by the next without a hole. Offsets of files that were set aside
(batch/mend.py) are read again. One run at a time holds a lock.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from batch import lake
from batch.archive_records import Frames, framing
from batch.files import write_text
from batch.read_log import Record, read_log
from batch.topics import Cluster
from riskflow.errors import NotReady
from riskflow.events import LATEST_MS
from riskflow.hashkey import read_hash_key
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import Settings

DAY_MS = 86_400_000


@dataclass
class Archived:
    """What one run added to one topic."""

    messages: int = 0
    rows: int = 0
    files: int = 0
    bad: int = 0  # records that are not what their topic holds; their bytes are kept
    gaps: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class ArchiveResult:
    """What a run added, and what is missing for good."""

    lake: Path
    topics: dict[str, Archived]
    seconds: float

    @property
    def added(self) -> int:
        return sum(t.messages for t in self.topics.values())

    @property
    def gaps(self) -> list[str]:
        return [f"{name} {p}/{a}-{b}" for name, t in self.topics.items() for p, a, b in t.gaps]

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        topics = {
            n: {"messages": t.messages, "rows": t.rows, "files": t.files, "bad": t.bad} for n, t in self.topics.items()
        }
        return {"added": self.added, "gaps": self.gaps, "seconds": round(self.seconds, 3), "topics": topics}


def archive(plan: Plan, conf: Settings, only: list[str] | None = None) -> ArchiveResult:
    """Brings the lake up to the logs' ends. `only`: names of topics, all of the use case by default.

    Raises NotReady where a topic is missing, or is another log than the one in the lake.
    """
    started = time.monotonic()
    names = Names(plan.name, prefix=conf.topic_prefix)
    kinds = framing(plan, names, read_hash_key(plan, conf.keys_folder))
    wanted = {t: f for t, f in kinds.items() if only is None or t in only}
    with lake.locked(conf.lake_folder, plan.name), Cluster(conf.kafka) as cluster:
        there = cluster.topics()
        for newer in (names.shadow, names.external):  # a use case whose topics were made before has none of them
            if newer not in there and (only is None or newer not in only):
                wanted.pop(newer, None)
        if only is None:
            wanted |= {topic: kinds[names.rows] for topic in there if names.is_held(topic)}
        _check_topics(plan, conf.lake_folder, list(wanted), there)
        ranges = cluster.log_ranges({t: there[t][1] for t in wanted})
        with _no_collector():
            topics = {
                t: _Topic(conf.lake_folder, t, there[t], frames, ranges).bring(conf.kafka)
                for t, frames in wanted.items()
            }
    return ArchiveResult(conf.lake_folder, topics, time.monotonic() - started)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Records are many, and no part of a circle: to look for one among them takes half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _check_topics(plan: Plan, folder: Path, wanted: list[str], there: dict[str, tuple[str, int]]) -> None:
    missing = [t for t in wanted if t not in there]
    if missing:
        raise NotReady(f"topics missing: {', '.join(missing)}. Run `riskflow topics {plan.name}`.")
    for topic in wanted:
        known = _topic_id(folder / topic)
        if known not in (None, there[topic][0]):
            raise NotReady(
                f"{topic} was deleted and made again: its offsets are not those in {folder / topic}. "
                "Move that folder away (readers will not see it any more), then run this again."
            )


def _topic_id(folder: Path) -> str | None:
    path = folder / lake.TOPIC_FILE
    return str(json.loads(path.read_text())["topic_id"]) if path.is_file() else None


class _Topic:
    """One topic on its way into the lake."""

    def __init__(
        self,
        folder: Path,
        name: str,
        info: tuple[str, int],
        frames: Frames,
        ranges: dict[tuple[str, int], tuple[int, int]],
    ) -> None:
        self.folder, self.name, self.frames = folder / name, name, frames
        self._id, self._partitions = info
        self._log = {p: ranges[name, p] for p in range(self._partitions)}
        self._lake = folder
        self.out = Archived()

    def bring(self, kafka: str) -> Archived:
        """Reads what is new and writes it."""
        self._clean()
        for again in self._again():
            self._read(kafka, again)
        done = lake.ends(self._lake, self.name)
        starts = {p: max(done.get(p, 0), first) for p, (first, _) in self._log.items()}
        self._read(kafka, {p: (starts[p], end) for p, (_, end) in self._log.items() if starts[p] < end})
        self.out.gaps = lake.gaps(self._lake, self.name)
        return self.out

    def _read(self, kafka: str, todo: dict[int, tuple[int, int]]) -> None:
        if todo:
            for partition, records, first, last in read_log(kafka, self.name, todo):
                self._write(partition, records, first, last)

    def _again(self) -> list[dict[int, tuple[int, int]]]:
        """What was set aside and the log still has, each as [start, end) of a partition."""
        out = []
        for _, partition, first, last in lake.set_aside(self._lake, self.name):
            for a, b in lake.missing(self._lake, self.name, partition, first, last):
                start, end = max(a, self._log[partition][0]), min(b + 1, self._log[partition][1])
                out += [{partition: (start, end)}] if start < end else []
        return out

    def _clean(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("date=*/.*.tmp"):
            left.unlink()
        if _topic_id(self.folder) is None:
            write_text(self.folder / lake.TOPIC_FILE, json.dumps({"topic": self.name, "topic_id": self._id}))

    def _write(self, partition: int, records: list[Record], first: int, last: int) -> None:
        """One file for each day and shape of the records, in the order of their offsets."""
        shapes = [(r.timestamp // DAY_MS, self.frames.shape(r)) for r in records]
        runs = [[r for r, _ in run] for _, run in groupby(zip(records, shapes, strict=True), key=lambda x: x[1])]
        for i, run in enumerate(runs):
            upto = runs[i + 1][0].offset - 1 if i + 1 < len(runs) else last
            frame, bad = self.frames.frame(partition, run)
            self._file(_day(run[0].timestamp), lake.part_name(partition, first, upto), frame)
            first = upto + 1
            self.out.rows += len(frame)
            self.out.messages += len(run)
            self.out.bad += bad
            self.out.files += 1

    def _file(self, day: str, name: str, frame: pl.DataFrame) -> None:
        folder = self.folder / f"date={day}"
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{name}.tmp"
        with temporary.open("wb") as file:
            frame.write_parquet(file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / name)


def _day(timestamp_ms: int) -> str:
    """UTC. Where a topic bears its producers' time instead of the broker's, that can be any number."""
    return datetime.fromtimestamp(min(max(timestamp_ms, 0), LATEST_MS) / 1000, UTC).strftime("%Y-%m-%d")
