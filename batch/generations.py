"""What each generation began with, kept in the lake: so that its rows can be replayed, and the next one be made.

    lake/_generations/<use case>.g<N>/
        start.json          where its rows begin, where its intake began, how its records were made
        records.parquet     the records it began with
        carried.parquet     rows that the generation before it had taken and not finished: folded there by all stages
                            but the last, and sent into this one's last stage
        history.parquet     the files of a first start, in the order in which they were folded
        parked/<stage>-<partition>-<offset>.block   what a person took out of a log (batch/park.py)
        cut.json            of one that ran beside another: from where on in each feed its scores count

A generation without a folder was begun by `riskflow topics`, from nothing. One that runs beside another has applied
rows that the other one scored: they stand on a topic of its own, and are in none of the tables that people read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from batch import lake
from batch.files import write_text
from batch.fold import fold, stage_orders
from batch.replay import Records, replay
from riskflow.columns import Columns, concat, take
from riskflow.evaluate import ID, KIND, TIME
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, log_columns, row_position

Offsets = Mapping[str, Mapping[str, int]]  # feed -> partition, as text: it is JSON
NOTHING, FILES, ARCHIVE = "nothing", "files", "archive"


@dataclass(frozen=True)
class Start:
    """How a generation began. Offsets and positions are by partition, as text: it is JSON."""

    generation: int
    made_from: str = NOTHING
    before: int | None = None  # the generation that its rows were taken from
    layout: str = ""
    rows_from: dict[str, int] = field(default_factory=dict)
    feeds: dict[str, dict[str, int]] = field(default_factory=dict)
    beside: bool = False  # it runs while another one scores


@dataclass(frozen=True)
class Cut:
    """Where a generation takes over: feed -> partition -> the first offset that it scores."""

    feeds: dict[str, dict[str, int]]
    over: bool = False  # the one before has nothing left to do


class Generations:
    """The generations of one use case in the lake. seen: the lake as it was then, instead of all that is there."""

    def __init__(self, plan: Plan, names: Names, folder: Path, seen: lake.Seen | None = None) -> None:
        self.plan, self.names, self.lake, self.seen = plan, names, folder, seen

    def at(self, generation: int) -> Names:
        return Names(self.names.usecase, generation, self.names.prefix)

    def folder(self, generation: int) -> Path:
        return self.lake / "_generations" / self.at(generation).group

    def known(self) -> list[int]:
        """Generations that began with a rebuild, without one that has not taken over yet."""
        return [g for g in self.begun() if not self.start(g).beside or ((cut := self.cut(g)) is not None and cut.over)]

    def begun(self) -> list[int]:
        """Those that only run beside another, too."""
        pattern = re.compile(re.escape(self.names.prefix + self.names.usecase) + r"\.g(\d+)")
        found = [pattern.fullmatch(p.parent.name) for p in (self.lake / "_generations").glob("*/start.json")]
        begun = sorted(int(m.group(1)) for m in found if m)
        return begun if self.seen is None else [g for g in begun if g in self.seen.generations]

    def present_and_next(self, store: Any, topics: Container[str]) -> tuple[Names, Names]:
        """Names of the generation that workers use, and of one that nothing was ever written under."""
        present = present_generation(store, self)
        return self.at(present), self.at(self.unused(present, topics))

    def unused(self, present: int, topics: Container[str]) -> int:
        """A number that nothing was ever written under; the present one where nothing exists at all."""
        used = {g for g in range(1, 1000) if any(self.at(g).by(e) in topics for e in self.plan.entities)}
        used |= set(self.begun())
        return max([present, *used]) + 1 if used else present

    def start(self, generation: int) -> Start:
        path = self.folder(generation) / "start.json"
        return Start(**json.loads(path.read_text())) if path.is_file() else Start(generation)

    def cut(self, generation: int) -> Cut | None:
        """Where it takes over from the one that it runs beside; None as long as that is open."""
        path = self.folder(generation) / "cut.json"
        return Cut(**json.loads(path.read_text())) if path.is_file() else None

    # writing

    def write(
        self, start: Start, records: dict[str, Records], carried: Columns | None, history: Columns | None
    ) -> None:
        """Keeps a generation's beginning; start.json last: where it lies, the rest is whole."""
        folder = self.folder(start.generation)
        folder.mkdir(parents=True, exist_ok=True)
        _records_frame(records).write_parquet(folder / "records.parquet")
        if carried is not None:
            lake.frame_of(carried).write_parquet(folder / "carried.parquet")
        if history is not None:
            lake.frame_of(history).write_parquet(folder / "history.parquet")
        _write_json(folder / "start.json", asdict(start))

    def write_cut(self, generation: int, cut: Cut) -> None:
        _write_json(self.folder(generation) / "cut.json", asdict(cut))

    # reading

    def rows(self, generation: int) -> Columns:
        """Effective rows that this generation scored, or whose labels it took."""
        return lake.as_columns(self.plan, self.frame(generation, self._read(self.names.rows)))

    def applied(self, generation: int) -> tuple[pl.DataFrame, int]:
        """Rows that are in its records: `rows`, and behind them those that it took while another one scored.

        The second value says how many the first ones are.
        """
        rows = self.frame(generation, self._read(self.names.rows))
        held = lake.effective(self._read(self.at(generation).held))
        both = pl.concat([f for f in (rows, held) if len(f)], how="diagonal_relaxed") if len(held) else rows
        return both, len(rows)

    def _read(self, topic: str) -> pl.DataFrame:
        return lake.read_topic(self.lake, topic, upto=self.seen and self.seen.upto(topic))

    def frame(self, generation: int, rows: pl.DataFrame) -> pl.DataFrame:
        """Those of the whole topic's rows that are this generation's, effective ones only."""
        own = self.cut(generation) if self.start(generation).beside else None
        rows = _taken(rows, self.plan, own.feeds, later=True) if own else _from(rows, self.start(generation).rows_from)
        after = [g for g in self.begun() if g > generation]
        following = next((g for g in after if not self.start(g).beside or self.cut(g)), None)
        if following is not None:
            cut = self.cut(following)
            if cut is not None:
                rows = _taken(rows, self.plan, cut.feeds, later=False)
            else:
                rows = _before(rows, self.start(following).rows_from)
        return lake.effective(rows)

    def carried(self, generation: int) -> Columns | None:
        """Rows that this generation took and left to the next."""
        path = self.folder(generation) / "carried.parquet"
        return lake.as_columns(self.plan, pl.read_parquet(path)) if path.is_file() else None

    def history(self, generation: int) -> Columns | None:
        """The files that this generation began with, in the order in which they became known."""
        path = self.folder(generation) / "history.parquet"
        return lake.as_columns(self.plan, pl.read_parquet(path)) if path.is_file() else None

    def records(self, generation: int) -> dict[str, Records]:
        """The records that a generation began with; worked out again from rows when this plan's windows are others."""
        start = self.start(generation)
        if start.made_from == NOTHING:
            return {}
        if start.layout == self.plan.layout_fingerprint:
            return _records_of(pl.read_parquet(self.folder(generation) / "records.parquet"))
        if start.made_from == FILES:
            history = self.history(generation)
            assert history is not None
            return replay(self.plan, history).records
        assert start.before is not None
        if start.beside:
            return self.records_at(start.before, start.feeds, self.carried(generation))
        return self.records_after(start.before, self.carried(generation))

    def records_after(self, generation: int, carried: Columns | None) -> dict[str, Records]:
        """The records at the end of a generation: its rows, and in all stages but the last those it left unfinished."""
        return self._records(generation, lake.as_columns(self.plan, self.applied(generation)[0]), carried)

    def records_at(self, generation: int, feeds: Offsets, carried: Columns | None) -> dict[str, Records]:
        """The records made of rows that stand before these offsets in their feeds, and of those it left unfinished."""
        rows = lake.as_columns(self.plan, self.applied(generation)[0])
        return self._records(generation, take(rows, np.flatnonzero(before(self.plan, rows, feeds))), carried)

    def _records(self, generation: int, finished: Columns, carried: Columns | None) -> dict[str, Records]:
        from batch.parked import read_parked

        rows = base(self.plan, finished)
        n = len(rows[KIND])
        both = concat([rows, base(self.plan, carried)]) if carried is not None else rows
        orders = stage_orders(self.plan, both, n, read_parked(self, generation).stopped(self.plan, both))
        return fold(self.plan, both, orders, self.records(generation)).records


def present_generation(store: Any, generations: Generations) -> int:
    """The generation that workers use; the newest that the lake knows where Redis was emptied or is older than that.

    A Redis that has the newest one's heads is not older: there a rebuild was ended before it set the number.
    """
    stored = int(store.get(generations.names.current_generation) or 0)
    newest = max([1, *generations.known()])
    if stored and store.exists(generations.at(newest).head(generations.plan.entities[0], 0)):
        return stored
    return max(stored, newest)


def base(plan: Plan, columns: Columns) -> Columns:
    """What a fold needs of rows: who, when, fields, positions, and features for those that begin at a later stage."""
    positions = [c for e in plan.entities for c in log_columns(e)]
    wanted = [KIND, ID, TIME, *plan.entities, *plan.fields, INTAKE_LOG, INTAKE_PARTITION, *positions, *plan.features]
    return {name: columns[name] for name in dict.fromkeys(wanted)}


def _records_frame(records: dict[str, Records]) -> pl.DataFrame:
    rows: dict[str, list[Any]] = {"stage": [], "id": [], "record": []}
    for stage, found in records.items():
        rows["stage"] += [stage] * len(found)
        rows["id"] += list(found)
        rows["record"] += list(found.values())
    return pl.DataFrame(rows, schema={"stage": pl.String, "id": pl.Binary, "record": pl.Binary})


def _records_of(frame: pl.DataFrame) -> dict[str, Records]:
    out: dict[str, Records] = {}
    for stage, found in frame.group_by("stage"):
        out[str(stage[0])] = dict(zip(found["id"].to_list(), found["record"].to_list(), strict=True))
    return out


def before(plan: Plan, columns: Columns, feeds: Offsets) -> NDArray[np.bool_]:
    """Of each row, whether it stands before the offset that is given for its feed's partition."""
    kinds, parts, logs = (np.asarray(columns[c]) for c in (KIND, INTAKE_PARTITION, INTAKE_LOG))
    out = np.zeros(len(kinds), np.bool_)
    for feed, offsets in feeds.items():
        for partition, offset in offsets.items():
            out |= (kinds == plan.kind(feed)) & (parts == int(partition)) & (logs < row_position(offset))
    return out


def _taken(rows: pl.DataFrame, plan: Plan, cut: Offsets, *, later: bool) -> pl.DataFrame:
    """Rows on one side of a cut."""
    if not len(rows):
        return rows
    earlier = before(plan, {name: rows[name].to_numpy() for name in lake.ROW_KEY}, cut)
    return rows.filter(pl.Series(~earlier if later else earlier))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def _bound(rows: pl.DataFrame, offsets: dict[str, int]) -> pl.Expr:
    return pl.col(lake.PARTITION).replace_strict(
        {int(p): o for p, o in offsets.items()}, default=0, return_dtype=pl.Int64
    )


def _from(rows: pl.DataFrame, offsets: dict[str, int]) -> pl.DataFrame:
    return rows.filter(pl.col(lake.OFFSET) >= _bound(rows, offsets)) if len(rows) and offsets else rows


def _before(rows: pl.DataFrame, offsets: dict[str, int]) -> pl.DataFrame:
    return rows.filter(pl.col(lake.OFFSET) < _bound(rows, offsets)) if len(rows) else rows
