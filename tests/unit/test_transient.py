"""Models for one batch: what they predict, what they are refused, and that nothing of them stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from batch.given import Given
from batch.judge import judge
from batch.pipeline import Pipeline, PipelineFile
from batch.pipeline_search import SearchFile
from batch.search import Search
from batch.train import Span, train
from batch.training_set import TrainingSet
from batch.transient import predictions_of
from riskflow.errors import RiskflowError
from riskflow.scoring import Scorer
from tests.unit.training_cases import DAY, rows, small_plan

LINEAR = Pipeline(msgspec.structs.replace(PipelineFile(), candidates=["linear"]))


def parted(days: float = 21.0) -> tuple[TrainingSet, TrainingSet]:
    """What is learned from, and what came later."""
    data = rows()
    early = data.at_ms < data.at_ms[0] + days * DAY
    return data.rows(early), data.rows(~early)


def test_predictions_are_what_a_bundle_of_the_same_training_would_score(tmp_path: Path) -> None:
    plan, (data, later) = small_plan(), parted()
    table = predictions_of(plan, data, later.columns, tmp_path / "deep" / "predictions.parquet", LINEAR)
    span = Span.of(data, 7 * DAY, 4)
    raced = train(plan, data, span, ["linear"])
    bundle = judge(plan, LINEAR, data, span.validation(data), raced).bundle
    assert bundle is not None
    np.testing.assert_array_equal(table["score"].to_numpy(), Scorer(plan, bundle).score(later.columns).score)
    ids: Any = later.columns["_id"]
    assert table["event_id"].to_list() == ids.strings()
    assert set(table["candidate"]) == {"linear"}
    assert pl.read_parquet(tmp_path / "deep" / "predictions.parquet").equals(table)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["predictions.parquet"], "no model stays"


def test_rows_that_are_not_later_are_refused() -> None:
    plan, (data, later) = small_plan(), parted()
    with pytest.raises(RiskflowError, match=r"1 of 1 rows are not later than the newest that is learned from"):
        predictions_of(plan, data, data.rows(np.array([len(data) - 1])).columns, pipeline=LINEAR)
    with pytest.raises(RiskflowError, match="no rows to predict"):
        predictions_of(plan, data, later.rows(np.zeros(0, np.int64)).columns, pipeline=LINEAR)


def test_a_search_may_stand_before_it() -> None:
    plan, (data, later) = small_plan(), parted()
    search = Search(SearchFile(trials=2))
    table = predictions_of(plan, data, later.columns, pipeline=LINEAR, given=Given(search))
    assert table.height == len(later)
