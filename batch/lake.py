"""The lake: archived topics as Parquet, and how they are read.

    lake/<topic>/date=YYYY-MM-DD/part-<partition>-<first>-<last>.parquet     date: of the broker's time, UTC
    lake/<topic>/topic.json                                                  which log the offsets belong to

A file holds all records of its partition from offset `first` to `last`. What two files both cover is read once: the one
that begins first, or is longer, wins. A file that cannot be read is never passed over: readers name it. They get
*effective* rows and scores only: of what was sent twice, one.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch.history import text_column
from riskflow.columns import Column, Columns, Text, n_rows
from riskflow.declare import CATEGORY, TEXT, Feed
from riskflow.errors import RiskflowError
from riskflow.evaluate import DEGRADED, ID, KIND, TIME, empty_field
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, log_columns

PARTITION, OFFSET, ROW, EPOCH, BROKER_MS = "_partition", "_offset", "_row", "_epoch", "_broker_ms"
CARRIED, NOWHERE = -1, -2  # partitions in a position: folded by an earlier generation; not in this stage's log
STATUS, VALUE, KEY = "_status", "_value", "_key"
ACCEPTED, PARKED = "ok", "parked"
ROW_KEY = (KIND, INTAKE_PARTITION, INTAKE_LOG)  # one row of the world: where it stands in its feed
_ROWS = (*ROW_KEY, ID, TIME, EPOCH, PARTITION, OFFSET, ROW)
NEEDED = {"rows": _ROWS, "held": _ROWS, "scores": ("event_id", EPOCH, OFFSET)}  # columns, by how a topic's name ends
BROKEN = ".broken"  # behind the name of a file that was set aside (batch/mend.py)
_NAME = re.compile(r"part-(\d+)-(\d+)-(\d+)\.parquet(\.broken)?")
TOPIC_FILE = "topic.json"
LOOKS = 5  # at a folder whose files are merged meanwhile

Named = tuple[Path, int, int, int]  # a file, its partition, its first and last offset


class BrokenFile(RiskflowError):
    """A file of the lake cannot be read, or not be understood."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} {why}. Run `riskflow mend` for its use case: it sets the file aside, and "
            "`riskflow archive` brings its offsets again while Kafka has them"
        )


@dataclass(frozen=True)
class Part:
    """One file; `start` is the first offset that is read from it, above `first` where another has those before."""

    path: Path
    partition: int
    first: int
    last: int
    start: int

    @property
    def clipped(self) -> bool:
        return self.start > self.first


def part_name(partition: int, first: int, last: int) -> str:
    return f"part-{partition}-{first}-{last}.parquet"


def parts(lake: Path, topic: str) -> list[Part]:
    """The files that together hold each offset once, by partition and offset."""
    return list(_without_overlap(named(lake, topic)))


def named(lake: Path, topic: str) -> list[Named]:
    """All files of a topic by partition and first offset, the longest of those that begin together first."""
    return _named((lake / topic).glob("date=*/part-*.parquet"))


def set_aside(lake: Path, topic: str) -> list[Named]:
    """Files that could not be read, with the offsets that they should have held."""
    return _named((lake / topic).glob(f"date=*/part-*.parquet{BROKEN}"))


def _named(paths: Iterator[Path]) -> list[Named]:
    matches = [(path, _NAME.fullmatch(path.name)) for path in paths]
    found = [(path, int(m[1]), int(m[2]), int(m[3])) for path, m in matches if m]
    return sorted(found, key=lambda f: (f[1], f[2], -f[3], str(f[0])))


def missing(lake: Path, topic: str, partition: int, first: int, last: int) -> list[tuple[int, int]]:
    """(first, last) of the offsets in this range that no file has."""
    out = []
    for part in parts(lake, topic):
        if part.partition == partition and part.last >= first and part.start <= last:
            if part.start > first:
                out.append((first, part.start - 1))
            first = part.last + 1
    return [*out, (first, last)] if first <= last else out


def topic_folders(lake: Path, names: Names) -> list[Path]:
    """The folders of a use case's topics."""
    return sorted(path for path in lake.glob(f"{names.feed('x').removesuffix('x')}*") if path.is_dir())


@contextmanager
def locked(lake: Path, usecase: str) -> Iterator[None]:
    """One at a time writes a use case's files; the next one waits. Readers need no lock."""
    lake.mkdir(parents=True, exist_ok=True)
    with (lake / f".{usecase}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _without_overlap(found: list[Named]) -> Iterator[Part]:
    ends: dict[int, int] = {}
    for path, partition, first, last in found:
        start = max(first, ends.get(partition, 0))
        if start <= last:
            yield Part(path, partition, first, last, start)
            ends[partition] = last + 1


def ends(lake: Path, topic: str) -> dict[int, int]:
    """Partition -> the first offset that is not in the lake."""
    return {p.partition: p.last + 1 for p in parts(lake, topic)}


def gaps(lake: Path, topic: str) -> list[tuple[int, int, int]]:
    """(partition, first, last) of offsets between files that no file has: retention was faster than the archive."""
    out, before = [], dict[int, int]()
    for part in parts(lake, topic):
        if part.first > before.get(part.partition, part.first):
            out.append((part.partition, before[part.partition], part.first - 1))
        before[part.partition] = part.last + 1
    return out


@dataclass(frozen=True)
class Seen:
    """A lake as it once was: what is read of it, however much it has grown since, or been merged into other files."""

    ends: Mapping[str, Mapping[int, int]]  # topic -> partition -> the first offset that is not read
    generations: tuple[int, ...]  # the others are not looked at
    samples: tuple[str, ...] = ()  # of batch/review_sample.py

    def upto(self, topic: str) -> Mapping[int, int]:
        return self.ends.get(topic, {})


def read_topic(
    lake: Path,
    topic: str,
    columns: list[str] | None = None,
    upto: Mapping[int, int] | None = None,
    since_ms: int = 0,
) -> pl.DataFrame:
    """All archived records of a topic, as they were sent; columns that a file does not have are null there.

    upto: partition -> the first offset that is not read; a partition that it does not name is left out. since_ms: files
    of earlier days (of the broker's time) are not opened. Raises BrokenFile for one that cannot be read.
    """
    first_day = f"date={datetime.fromtimestamp(since_ms / 1000, UTC):%Y-%m-%d}"
    for look in range(LOOKS):
        try:
            wanted = [part for part in parts(lake, topic) if part.path.parent.name >= first_day]
            frames = [_read(part, columns, upto) for part in wanted]
            break
        except FileNotFoundError:  # it was merged into a longer one (batch/compact.py)
            if look == LOOKS - 1:
                raise
    frames = [f for f in frames if len(f)]
    return pl.concat(frames, how="diagonal_relaxed", rechunk=True) if frames else pl.DataFrame()


def _read(part: Part, columns: list[str] | None, upto: Mapping[int, int] | None) -> pl.DataFrame:
    end = part.last + 1 if upto is None else upto.get(part.partition, 0)
    if end <= part.start:
        return pl.DataFrame()
    try:
        schema = pl.read_parquet_schema(part.path)
        there = columns and [c for c in schema if c in {*columns, OFFSET}]
        frame = pl.read_parquet(part.path, columns=there or None, hive_partitioning=False)
    except FileNotFoundError:
        raise
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BrokenFile(part.path, f"cannot be read ({error})") from None
    lacks = lacking(part.path, schema)
    if lacks:
        raise BrokenFile(part.path, lacks)
    if part.clipped or end <= part.last:
        frame = frame.filter(pl.col(OFFSET).is_between(part.start, end - 1))
    return frame


def lacking(path: Path, schema: Collection[str]) -> str:
    """Which columns a file lacks without which nobody knows what its rows are about; empty when it has them."""
    if list(schema) == [OFFSET]:  # nothing of what it was to hold could be read
        return ""
    needed = NEEDED.get(path.parents[1].name.rpartition(".")[2], ())
    gone = [name for name in needed if name not in schema]
    return f"lacks the column{'s' if len(gone) > 1 else ''} {', '.join(gone)}" if gone else ""


# ---- rows ------------------------------------------------------------------------------------------------------------


def read_rows(
    plan: Plan, names: Names, lake: Path, from_ms: int | None = None, to_ms: int | None = None
) -> pl.DataFrame:
    """Effective rows with event times from from_ms (inclusive) to to_ms (exclusive), in the order of `rows`."""
    frame = effective(read_topic(lake, names.rows))
    if from_ms is not None and len(frame):
        frame = frame.filter(pl.col(TIME) >= from_ms)
    if to_ms is not None and len(frame):
        frame = frame.filter(pl.col(TIME) < to_ms)
    return frame


def effective(rows: pl.DataFrame) -> pl.DataFrame:
    """Of rows with one intake position the one of the highest epoch; of those that are equal bytes the first."""
    if not len(rows):
        return rows
    small = rows.select(*ROW_KEY, ID, EPOCH, PARTITION, OFFSET, ROW).with_row_index("_at")
    small = small.sort(EPOCH, PARTITION, OFFSET, ROW, descending=[True, False, False, False])
    kept = small.unique([*ROW_KEY, ID], keep="first", maintain_order=True)["_at"]
    return rows if len(kept) == len(rows) else rows[kept.sort()]


def as_columns(plan: Plan, frame: pl.DataFrame) -> Columns:
    """A table of rows as the columns that the kernel and the models take."""
    n = len(frame)
    out: Columns = {}
    for name in frame.columns:
        out[name] = column_of(frame[name])
    for name, kind in plan.fields.items():
        out.setdefault(name, empty_field(kind.kind, n))
    for entity in plan.entities:
        out.setdefault(entity, empty_field(TEXT, n))
        log, part = log_columns(entity)
        out.setdefault(log, np.full(n, -1, np.int64))
        out.setdefault(part, np.full(n, NOWHERE, np.int32))
    for name in plan.features:
        out.setdefault(name, np.full(n, np.nan))
    for name in (KIND, TIME, INTAKE_LOG, INTAKE_PARTITION):
        out.setdefault(name, np.zeros(n, np.int64))
    for name in (ID, DEGRADED):
        out.setdefault(name, Text.of([b""] * n))
    return out


def column_of(series: pl.Series) -> Column:
    """A Parquet column as ours: null is NaN, -1, or the missing text."""
    if series.dtype in (pl.String, pl.Null):
        return text_column(series)
    if series.dtype == pl.Binary:
        return Text.of(series.fill_null(Text.MISSING).to_list())
    if series.dtype == pl.List:
        return Text.of_strings(json.dumps(v.to_list() if v is not None else []) for v in series)
    missing: Any = float("nan") if series.dtype.is_float() else NOWHERE if series.name.startswith("_part_") else -1
    if series.null_count():
        series = series.fill_null(missing)
    return np.ascontiguousarray(series.to_numpy())


def series_of(name: str, column: Column) -> pl.Series:
    """One of our columns for Parquet: a missing text is null, every other value keeps its bits."""
    if not isinstance(column, Text):
        return pl.Series(name, np.ascontiguousarray(column))
    return pl.Series(name, [None if v == Text.MISSING else v for v in column.values()], pl.Binary).cast(pl.String)


def frame_of(columns: Columns) -> pl.DataFrame:
    """Columns as a table."""
    return (
        pl.DataFrame([series_of(name, column) for name, column in columns.items()])
        if n_rows(columns)
        else pl.DataFrame()
    )


# ---- feeds and scores ------------------------------------------------------------------------------------------------


def read_feed(
    lake: Path, names: Names, feed: Feed, from_ms: int | None = None, to_ms: int | None = None
) -> pl.DataFrame:
    """Messages of a feed that could be decoded, parked ones too, the first of each id; categories as words."""
    frame = read_topic(lake, names.feed(feed.name))
    if not len(frame):
        return pl.DataFrame(schema={ID: pl.String, TIME: pl.Int64, **dict.fromkeys(feed.types, pl.Null)})
    frame = frame.filter(pl.col(STATUS).is_in([ACCEPTED, PARKED]))
    if from_ms is not None:
        frame = frame.filter(pl.col(TIME) >= from_ms)
    if to_ms is not None:
        frame = frame.filter(pl.col(TIME) < to_ms)
    # A completed message has the id of the parked one, so the accepted one comes first.
    frame = frame.sort(pl.col(STATUS) == PARKED, BROKER_MS, PARTITION, OFFSET)
    return with_words(feed, frame.unique(ID, keep="first", maintain_order=True))


def with_words(feed: Feed, frame: pl.DataFrame) -> pl.DataFrame:
    """Categories of a feed as words instead of codes."""
    for name, kind in feed.types.items():
        if kind.kind == CATEGORY and name in frame.columns and frame[name].dtype != pl.String:
            words = dict(enumerate(kind.values))
            frame = frame.with_columns(pl.col(name).replace_strict(words, default=None, return_dtype=pl.String))
    return frame


def read_events(
    plan: Plan, names: Names, lake: Path, from_ms: int | None = None, to_ms: int | None = None
) -> pl.DataFrame:
    """Events as they were sent, with raw bytes (`_value`) and decoded fields; times are event times."""
    return read_feed(lake, names, plan.scored, from_ms, to_ms)


def read_labels(
    plan: Plan, names: Names, lake: Path, from_ms: int | None = None, to_ms: int | None = None
) -> pl.DataFrame:
    """Labels of the first feed that speaks about events: parked ones too, since training needs the event's id only."""
    feed = next((f for f in plan.usecase.feeds if f.about), None)
    return read_feed(lake, names, feed, from_ms, to_ms) if feed else pl.DataFrame()


def read_scores(
    plan: Plan, names: Names, lake: Path, from_ms: int | None = None, to_ms: int | None = None
) -> pl.DataFrame:
    """Effective scores: one for each event, the one of the highest epoch."""
    frame = read_topic(lake, names.scores)
    if not len(frame):
        return frame
    frame = frame.sort(EPOCH, OFFSET, descending=[True, False]).unique("event_id", keep="first", maintain_order=True)
    if from_ms is not None:
        frame = frame.filter(pl.col("occurred_at") >= from_ms)
    return frame.filter(pl.col("occurred_at") < to_ms) if to_ms is not None else frame
