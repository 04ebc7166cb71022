"""What is counted over events of the past: how many there are of each kind, by day, segment, decision and truth.

A tally of parts, merged, equals the tally of the whole, however the events were split: all that is kept are whole
numbers (money as hundredths) and the most telling examples of each flip. Every figure of a backtest is made from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from batch.past import ACTION, BUNDLE, SCORE, TRUTH, UNDECIDED
from batch.training_set import WEIGHT
from riskflow.columns import Columns, Text, take
from riskflow.declare import CATEGORY, NUMBER
from riskflow.errors import DeclarationError
from riskflow.evaluate import ID, TIME
from riskflow.plan import Plan
from riskflow.policy import DAY_MS

MOST_VALUES = 200  # of a segment's field; one with more names events, not groups
EXAMPLES = 5  # of each flip
HUNDREDTHS = 100


class Cell(NamedTuple):
    """Events that are alike in all that a figure can depend on."""

    day: int  # since 1970, UTC
    segments: tuple[str, ...]
    live_bundle: int
    live: int  # action
    action: int
    truth: int
    stands_for: float  # events whose truth it tells: 1, more where some of many were let through or sampled, else 0


@dataclass(frozen=True)
class Example:
    """One event whose decision flips."""

    event_id: str
    at_ms: int
    live: int
    action: int
    live_score: float | None
    score: float | None
    truth: int

    @property
    def rank(self) -> tuple[float, str]:
        """The larger the step in score, the more telling."""
        return -abs((self.score or 0.0) - (self.live_score or 0.0)), self.event_id


@dataclass
class Tally:
    """`events` and `lost_hundredths` (of the field that says what a missed fraud costs) of each cell."""

    events: Counter[Cell] = field(default_factory=Counter)
    lost_hundredths: Counter[Cell] = field(default_factory=Counter)
    first_ms: int | None = None
    last_ms: int | None = None
    examples: list[Example] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For a task that hands its part on."""
        cells = [[*cell, n, self.lost_hundredths[cell]] for cell, n in sorted(self.events.items())]
        examples = [asdict(e) for e in self.examples]
        return {"cells": cells, "first_ms": self.first_ms, "last_ms": self.last_ms, "examples": examples}

    @classmethod
    def from_json(cls, about: dict[str, Any]) -> Tally:
        out = cls(first_ms=about["first_ms"], last_ms=about["last_ms"])
        for day, segments, *others, events, lost in about["cells"]:
            cell = Cell(day, tuple(segments), *others)
            out.events[cell], out.lost_hundredths[cell] = events, lost
        out.examples = [Example(**e) for e in about["examples"]]
        return out


def tally(
    plan: Plan, columns: Columns, score: Any, action: Any, segments: Sequence[str] = (), lost: str | None = None
) -> Tally:
    """Counts events (batch.past) with these new scores and actions. lost: the field that a missed fraud costs."""
    if not len(score):
        return Tally()
    at_ms = np.asarray(columns[TIME])
    by = [*Cell._fields[:1], *(f"segment_{i}" for i in range(len(segments))), *Cell._fields[2:], "lost"]
    values = [segment_values(plan, columns, name) for name in segments]
    lives = (columns[BUNDLE], columns[ACTION])
    row = (at_ms // DAY_MS, *values, *lives, action, columns[TRUTH], columns[WEIGHT], _hundredths(columns, lost))
    table = pl.DataFrame(dict(zip(by, row, strict=True)))
    grouped = table.group_by(by[:-1]).agg(pl.len(), pl.col("lost").sum())
    out = Tally(first_ms=int(at_ms.min()), last_ms=int(at_ms.max()))
    words = len(segments)
    for day, *found, events, money in grouped.iter_rows():
        cell = Cell(day, tuple(found[:words]), *found[words:])
        out.events[cell], out.lost_hundredths[cell] = events, money
    out.examples = _examples(columns, np.asarray(score), np.asarray(action))
    return out


def merge(parts: Iterable[Tally]) -> Tally:
    """One tally of all the parts' events."""
    out = Tally()
    for part in parts:
        out.events.update(part.events)
        out.lost_hundredths.update(part.lost_hundredths)
        out.first_ms = _of_known(min, out.first_ms, part.first_ms)
        out.last_ms = _of_known(max, out.last_ms, part.last_ms)
        out.examples += part.examples
    out.examples = _most_telling(out.examples)
    return out


def split_by_day(columns: Columns) -> dict[int, Columns]:
    """The events of each day (since 1970, UTC), in order of days."""
    days = np.asarray(columns[TIME]) // DAY_MS
    return {int(day): take(columns, np.flatnonzero(days == day)) for day in np.unique(days)}


def segment_values(plan: Plan, columns: Columns, name: str) -> list[str]:
    """The group of each event, as words; a field that does not make groups is refused."""
    kind = plan.fields.get(name)
    if kind is None or kind.kind == NUMBER:
        groups = sorted(n for n, k in plan.scored.types.items() if k.kind != NUMBER)
        raise DeclarationError(
            f"segment {name!r}", "is no field with groups", f"Take one of {groups or 'none: there is no such field'}"
        )
    column: Any = columns[name]
    if kind.kind == CATEGORY:
        return np.array([*kind.values, "unknown"], dtype=object)[column].tolist()  # type: ignore[no-any-return]
    assert isinstance(column, Text)
    words = ["unknown" if w is None else w for w in column.strings()]
    if len(set(words)) > MOST_VALUES:
        raise DeclarationError(f"segment {name!r}", f"has more than {MOST_VALUES} values", "Take a field with groups")
    return words


def _hundredths(columns: Columns, lost: str | None) -> NDArray[np.int64]:
    """Whole numbers, so that the order in which they are added does not matter."""
    if lost is None:
        return np.zeros(len(columns[TIME]), np.int64)
    return np.round(np.nan_to_num(np.asarray(columns[lost], np.float64)) * HUNDREDTHS).astype(np.int64)


def _examples(columns: Columns, score: NDArray[Any], action: NDArray[Any]) -> list[Example]:
    live = np.asarray(columns[ACTION])
    flipped = np.flatnonzero((live != action) & (live != UNDECIDED))
    ids: Any = columns[ID]
    rows = zip(
        ids.take(flipped).strings(), np.asarray(columns[TIME])[flipped].tolist(), live[flipped].tolist(),
        action[flipped].tolist(), map(_known, np.asarray(columns[SCORE])[flipped].tolist()),
        map(_known, score[flipped].tolist()), np.asarray(columns[TRUTH])[flipped].tolist(), strict=True,
    )  # fmt: skip
    return _most_telling(Example(*row) for row in rows)


def _known(score: float) -> float | None:
    return score if score == score else None


def _most_telling(examples: Iterable[Example]) -> list[Example]:
    """Some of each flip, always the same ones whatever order they come in."""
    kept: list[Example] = []
    taken: Counter[tuple[int, int]] = Counter()
    for example in sorted(examples, key=lambda e: (e.live, e.action, *e.rank)):
        flip = example.live, example.action
        if taken[flip] < EXAMPLES:
            kept.append(example)
            taken[flip] += 1
    return kept


def _of_known(choose: Any, *values: int | None) -> int | None:
    known = [v for v in values if v is not None]
    return choose(known) if known else None
