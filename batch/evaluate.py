"""Measures a use case on somebody's history, by the whole chain: replay, train, bundle, ONNX scores, metrics.

Days are inclusive and in UTC. All rows before the test days end go through the windows, labels at the moment they were
known. A training label counts only if known by the end of the training days plus the delay. `drop_known` leaves out,
on each test day, entities with a fraud since the first training day that was known when the day began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from batch import metrics
from batch.given import Given
from batch.history import history_columns
from batch.judge import Judged, judge
from batch.pipeline import Pipeline
from batch.replay import replay
from batch.train import Span, train
from batch.training_set import Labels, TrainingSet, resolve_labels, training_set
from riskflow.columns import Columns, Text, take
from riskflow.errors import DeclarationError
from riskflow.evaluate import ID, TIME
from riskflow.plan import Plan
from riskflow.policy import DAY_MS
from riskflow.scoring import Scorer


@dataclass(frozen=True)
class Protocol:
    """What is learned from and what is tested on; moments in UTC epoch ms, ends exclusive."""

    train_from_ms: int
    train_until_ms: int
    test_from_ms: int
    test_until_ms: int
    delay_ms: int
    top_k: int = 100
    drop_known: str | None = None

    def __post_init__(self) -> None:
        if self.train_from_ms >= self.train_until_ms or self.test_from_ms >= self.test_until_ms:
            raise DeclarationError(
                "evaluate", "ends before it begins", "Days are inclusive: --train-to >= --train-from"
            )
        if self.test_from_ms < self.train_until_ms:
            raise DeclarationError("evaluate", "tests on days that it learned from", "Put --test-from after --train-to")

    @property
    def known_before_ms(self) -> int:
        return self.train_until_ms + self.delay_ms


@dataclass(frozen=True)
class Replayed:
    """A history with features, and every label that it ever gets."""

    columns: Columns
    labels: Labels


def replay_history(
    plan: Plan, pipeline: Pipeline, tables: Mapping[str, pl.DataFrame | None], until_ms: int, hash_key: bytes = b""
) -> Replayed:
    """Folds the rows before a moment; labels that come later are kept as the truth about tested rows."""
    columns = history_columns(plan, tables, hash_key)
    labels = resolve_labels(plan, columns, pipeline.file.label_sources)
    until = np.flatnonzero(np.asarray(columns[TIME]) < until_ms)
    return Replayed(replay(plan, take(columns, until)).columns, labels)


def evaluate(
    plan: Plan, pipeline: Pipeline, history: Replayed, protocol: Protocol, given: Given | None = None
) -> dict[str, Any]:
    """The figures of one training span and one test span."""
    judged, data = train_once(plan, pipeline, history, protocol, given)
    if judged.bundle is None:
        raise DeclarationError(f"evaluate {plan.name}", judged.verdict.refusal(), "Mend what the gate names")
    test = tested_rows(plan, history, protocol)
    score = Scorer(plan, judged.bundle).score(test.columns).score
    return {
        **metrics.ranking(score, test.fraud),
        "cp_at_k": metrics.card_precision(score, test.fraud, _ids(test, plan.entities[0]), test.at_ms, protocol.top_k),
        "train_rows": len(data), "train_frauds": data.frauds, "test_rows": len(test), "test_frauds": test.frauds,
        "candidate": judged.verdict.candidate, "race": judged.verdict.race,
        **{name: judged.bundle.metrics[name] for name in ("search",) if name in judged.bundle.metrics},
    }  # fmt: skip


def train_once(
    plan: Plan, pipeline: Pipeline, history: Replayed, protocol: Protocol, given: Given | None = None
) -> tuple[Judged, TrainingSet]:
    """Trains and judges on the training days alone."""
    data = training_rows(plan, pipeline, history, protocol)
    span = Span.of(data, pipeline.validation_ms, pipeline.file.folds)
    raced = train(plan, data, span, pipeline.candidates(plan), given)
    return judge(plan, pipeline, data, span.validation(data), raced), data


def training_rows(plan: Plan, pipeline: Pipeline, history: Replayed, protocol: Protocol) -> TrainingSet:
    """Rows of the training days with the labels that were known by their end plus the delay."""
    known = resolve_labels(plan, history.columns, pipeline.file.label_sources, protocol.known_before_ms)
    data = training_set(plan, history.columns, known, protocol.train_from_ms, protocol.train_until_ms)
    if not len(data):
        raise DeclarationError("evaluate", "no event lies on the training days", "Check --train-from and --train-to")
    return data


def tested_rows(plan: Plan, history: Replayed, protocol: Protocol) -> TrainingSet:
    """Rows of the test days with what they turned out to be, however late that became known."""
    test = training_set(plan, history.columns, history.labels, protocol.test_from_ms, protocol.test_until_ms)
    if not len(test):
        raise DeclarationError("evaluate", "no event lies on the test days", "Check --test-from and --test-to")
    return test if protocol.drop_known is None else test.rows(~_known_by_then(plan, history, protocol, test))


def _known_by_then(plan: Plan, history: Replayed, protocol: Protocol, test: TrainingSet) -> Any:
    """Which rows are of an entity whose fraud, since the first training day, was known when the row's day began."""
    entity = str(protocol.drop_known)
    if entity not in plan.entities:
        raise DeclarationError("--drop-known", f"{entity!r} is no entity", f"One of {', '.join(plan.entities)}")
    since = training_set(plan, history.columns, history.labels, protocol.train_from_ms, protocol.test_until_ms)
    frauds = since.rows(since.fraud > 0)
    known_ms = _known_ms(history.labels, _text(frauds, ID).hashes())
    first: dict[int, int] = {}
    for who, at in zip(_ids(frauds, entity).tolist(), known_ms.tolist(), strict=True):
        first[who] = min(at, first.get(who, at))
    earliest = np.array([first.get(who, np.iinfo(np.int64).max) for who in _ids(test, entity).tolist()], np.int64)
    return earliest < test.at_ms // DAY_MS * DAY_MS


def _known_ms(labels: Labels, ids: Any) -> Any:
    return labels.known_ms[np.searchsorted(labels.events, ids)]


def _ids(rows: TrainingSet, entity: str) -> Any:
    return _text(rows, entity).hashes()


def _text(rows: TrainingSet, name: str) -> Text:
    column = rows.columns[name]
    assert isinstance(column, Text)
    return column
