"""Models that live for one batch: trained on fresh data, asked once, and dropped; only their predictions are kept.

For what is decided in bulk and soon over: a campaign, a clean-up of old cases, a question that is asked once. Nothing
is published, no worker hears of it, and the registry is not looked at.

    data = TrainingSet.read(frame)                       # rows with their verdict, oldest first
    table = predictions_of(plan, data, fresh, Path("predictions.parquet"))
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch.calibration import calibration_points
from batch.files import whole
from batch.given import Given
from batch.pipeline import Pipeline
from batch.train import Span, Trained, input_values, train
from batch.training_set import TrainingSet
from riskflow.columns import F8, Columns, Text
from riskflow.errors import RiskflowError
from riskflow.evaluate import ID, TIME
from riskflow.plan import Plan
from riskflow.scoring import Calibration, Layer


def predictions_of(
    plan: Plan,
    data: TrainingSet,
    rows: Columns,
    to: Path | None = None,
    pipeline: Pipeline | None = None,
    given: Given | None = None,
) -> pl.DataFrame:
    """Trains on `data` and predicts `rows`; returns, and writes to Parquet, event_id, at_ms, score and candidate.

    rows: ids, times (UTC epoch ms) and the columns that models listen to, of events that are all later than every row
    of `data`. score: a calibrated probability with 6 decimals. pipeline: candidates, validation and folds; the use
    case's own by default. given: a search, for example.

    Raises RiskflowError where a row is not later than what was learned from, or where there are too few frauds.
    """
    pipeline = pipeline or Pipeline.of(plan)
    _check_later(plan, data, rows)
    span = Span.of(data, pipeline.validation_ms, pipeline.file.folds)
    best = train(plan, data, span, pipeline.candidates(plan), given)[0]
    validation = span.validation(data)
    points = calibration_points(best.outputs, validation.fraud, validation.weight)
    ids: Any = rows[ID]
    table = pl.DataFrame(
        {
            "event_id": ids.strings() if isinstance(ids, Text) else ids,
            "at_ms": np.asarray(rows[TIME]),
            "score": Calibration.of(points)(_outputs(plan, best, rows)),
        }
    ).with_columns(candidate=pl.lit(best.candidate))
    if to is not None:
        _write(table, to)
    return table


def _outputs(plan: Plan, best: Trained, rows: Columns) -> F8:
    """Outputs of the last layer, by the same ONNX models that a bundle would hold."""
    n = len(rows[TIME])
    values = input_values(plan, rows, best.dictionaries, best.transferred)
    inputs = {layer["name"]: layer["inputs"] for layer in best.transferred}
    inputs |= {name: plan.model_inputs(name) for name in plan.models}
    for name, listened in inputs.items():
        values[name] = Layer(name, listened, best.models[name]).run(values, n)
    found: F8 = values[str(plan.final_model)]
    return found


def _check_later(plan: Plan, data: TrainingSet, rows: Columns) -> None:
    at_ms = np.asarray(rows[TIME])
    if not len(at_ms) or not len(data):
        raise RiskflowError(f"{plan.name}: there are no rows to {'predict' if len(data) else 'learn from'}")
    if at_ms.min() <= data.at_ms.max():
        early = int((at_ms <= data.at_ms.max()).sum())
        newest = datetime.fromtimestamp(int(data.at_ms.max()) / 1000, UTC).isoformat(timespec="seconds")
        raise RiskflowError(
            f"{plan.name}: {early} of {len(at_ms)} rows are not later than the newest that is learned from ({newest}). "
            "Predict later rows, or learn from older ones"
        )


def _write(table: pl.DataFrame, to: Path) -> None:
    with whole(to) as beside:
        table.write_parquet(beside)
