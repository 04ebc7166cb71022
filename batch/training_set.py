"""What is learned from: scored rows with their features, and what each turned out to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from batch.files import whole
from batch.history import text_column
from batch.weights import part
from riskflow.columns import F8, I8, Columns, Text, n_rows, take
from riskflow.declare import Feed
from riskflow.errors import DeclarationError
from riskflow.evaluate import ID, KIND, TIME
from riskflow.plan import Plan

TARGET = "is_fraud"
SOURCE = "source"
WEIGHT = "_weight"
FOREVER_MS = 2**62
AS_LABELLED, WEIGHTED = "as_labelled", "weighted"
ALL, SAMPLED = "all", "sampled"


@dataclass(frozen=True)
class TrainingSet:
    """Scored rows in order of time. `fraud` is 1 or 0 for each; `weight`: how many rows each stands for, None: one."""

    columns: Columns
    fraud: F8
    weight: F8 | None = None

    def __len__(self) -> int:
        return len(self.fraud)

    @property
    def at_ms(self) -> I8:
        return np.asarray(self.columns[TIME])

    @property
    def frauds(self) -> int:
        return int(self.fraud.sum())

    @property
    def events(self) -> float:
        """How many the rows stand for."""
        return float(len(self) if self.weight is None else self.weight.sum())

    @property
    def rate(self) -> float:
        """The share of frauds among the events that rows stand for."""
        return float(np.average(self.fraud, weights=self.weight)) if len(self) else 0.0

    def standing_for(self, weight: F8) -> TrainingSet:
        """The rows that stand for anything; none is weighted where each stands for itself alone."""
        chosen = self.rows(weight > 0)
        each = weight[weight > 0]
        return TrainingSet(chosen.columns, chosen.fraud, None if (each == 1).all() else each)

    def rows(self, chosen: NDArray[Any]) -> TrainingSet:
        """The rows of a mask or of row numbers."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return TrainingSet(take(self.columns, numbers), self.fraud[numbers], part(self.weight, numbers))

    def table(self) -> pl.DataFrame:
        """As it lies in Parquet."""
        own = {TARGET: self.fraud} if self.weight is None else {TARGET: self.fraud, WEIGHT: self.weight}
        return pl.DataFrame({**{n: _series(c) for n, c in self.columns.items()}, **own})

    def write(self, path: Path) -> None:
        """To Parquet."""
        with whole(path) as beside:
            self.table().write_parquet(beside, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> TrainingSet:
        table = pl.read_parquet(path)
        columns: Columns = {name: _column(table[name]) for name in table.columns if name not in (TARGET, WEIGHT)}
        weight = table[WEIGHT].to_numpy() if WEIGHT in table.columns else None
        return cls(columns, table[TARGET].to_numpy(), weight)


def _series(column: Any) -> pl.Series:
    return pl.Series(column.strings(), dtype=pl.String) if isinstance(column, Text) else pl.Series(column)


def _column(series: pl.Series) -> Any:
    return text_column(series) if series.dtype == pl.String else series.to_numpy()


def scored_columns(plan: Plan) -> list[str]:
    """Names of what is kept of a scored row: ids, time, its fields, everything that is worked out."""
    fields = [f for f in plan.scored.types if f in plan.fields]
    return list(dict.fromkeys([ID, TIME, *plan.entities, *fields, *plan.features]))


@dataclass(frozen=True)
class Labels:
    """One verdict for each labelled event, sorted by the event's hash."""

    events: I8
    fraud: F8
    known_ms: I8

    @cached_property
    def count(self) -> int:
        return len(self.events)

    def of(self, ids: I8, otherwise: float) -> F8:
        """The verdict on each event (by the hash of its id)."""
        if not self.count:
            return np.full(len(ids), otherwise)
        at = np.minimum(np.searchsorted(self.events, ids), self.count - 1)
        return np.where(self.events[at] == ids, self.fraud[at], otherwise)


def label_feed(plan: Plan) -> Feed:
    """The feed that says what events turned out to be."""
    for feed in plan.usecase.feeds:
        if feed.about and TARGET in feed.fields:
            return feed
    raise DeclarationError(
        f"use case {plan.name!r}", "has no feed of labels", f"Declare one with about=... and a field {TARGET}: bool"
    )


def sends_labels(plan: Plan) -> bool:
    """Whether there is such a feed."""
    return any(feed.about and TARGET in feed.fields for feed in plan.usecase.feeds)


def newest_label_ms(plan: Plan, columns: Columns) -> int | None:
    """When the newest label became known; None where none ever did. columns: rows of all feeds."""
    at_ms = np.asarray(columns[TIME])[columns[KIND] == plan.kind(label_feed(plan).name)]
    return int(at_ms.max()) if len(at_ms) else None


def resolve_labels(
    plan: Plan, columns: Columns, sources: Sequence[str] = (), known_before_ms: int = FOREVER_MS
) -> Labels:
    """What is known of each event before a moment: the strongest source wins, then the newest label.

    columns: rows of all feeds. sources: strongest first; any other is weaker than all of these. A label without a
    verdict says nothing.
    """
    feed = label_feed(plan)
    mine = (columns[KIND] == plan.kind(feed.name)) & (np.asarray(columns[TIME]) < known_before_ms)
    mine &= ~np.isnan(np.asarray(columns[TARGET], np.float64))
    rows = take({n: columns[n] for n in (TIME, str(feed.about), TARGET, SOURCE) if n in columns}, np.flatnonzero(mine))
    events = _text(rows[str(feed.about)]).hashes()
    strength = _strength(rows, sources)
    order = np.lexsort((rows[TIME], strength, events))
    last = np.append(events[order][1:] != events[order][:-1], True)[: len(order)]
    winners = order[last]
    return Labels(events[winners], np.asarray(rows[TARGET])[winners], np.asarray(rows[TIME])[winners])


def _strength(rows: Columns, sources: Sequence[str]) -> I8:
    out = np.zeros(n_rows(rows), np.int64)
    if SOURCE in rows and sources:
        hashes = _text(rows[SOURCE]).hashes()
        for strength, wanted in enumerate(reversed(Text.of_strings(sources).hashes().tolist()), 1):
            out[hashes == wanted] = strength
    return out


def _text(column: Any) -> Text:
    assert isinstance(column, Text)
    return column


@dataclass(frozen=True)
class Terms:
    """Which rows of a history are learned from, and whose labels count: with the same rows they give the same set."""

    from_ms: int
    until_ms: int
    known_before_ms: int  # labels that became known later do not count
    label_sources: tuple[str, ...] = ()
    declined: str = WEIGHTED  # or AS_LABELLED: batch/let_through.py
    learn: str = ALL  # or SAMPLED: batch/review_sample.py


def training_set(plan: Plan, columns: Columns, labels: Labels, from_ms: int, until_ms: int) -> TrainingSet:
    """Scored rows of [from_ms, until_ms), in order of time. One without a label is taken as genuine.

    The caller sees to it that until_ms leaves every row the time to get its label.
    """
    at_ms = np.asarray(columns[TIME])
    rows = np.flatnonzero((columns[KIND] == 0) & (at_ms >= from_ms) & (at_ms < until_ms))
    rows = rows[np.argsort(at_ms[rows], kind="stable")]
    kept = take({name: columns[name] for name in scored_columns(plan) if name in columns}, rows)
    return TrainingSet(kept, labels.of(_text(kept[ID]).hashes(), 0.0))
