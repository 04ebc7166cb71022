"""Runs the whole evaluation path once on a made-up row, so that nothing is compiled while events wait."""

from __future__ import annotations

import numpy as np

from riskflow import evaluate
from riskflow.columns import Columns, Text
from riskflow.plan import Plan


def warm_up(plan: Plan) -> None:
    """Compiles (or takes from the cache) what observing and calculating need, for every feed."""
    columns = one_row_of_each_feed(plan)
    failures = evaluate.Failures()
    evaluate.start(plan, columns, failures)
    for stage in plan.stages:
        entities, slots = evaluate.entities_of(stage, columns)
        columns = evaluate.observe(plan, stage, columns, slots, [None] * len(entities), {0: 0}, failures).columns


def one_row_of_each_feed(plan: Plan) -> Columns:
    """One row for each feed, all of one entity, with nothing known but its time."""
    feeds = plan.usecase.feeds
    n = len(feeds)
    columns: Columns = {
        evaluate.KIND: np.arange(n, dtype=np.int8),
        evaluate.ID: Text.of([b"warm-up"] * n),
        evaluate.TIME: np.full(n, 1_700_000_000_000, np.int64),
    }
    for entity in plan.entities:
        columns[entity] = Text.of([b"nobody"] * n)
    for name, kind in plan.fields.items():
        columns[name] = evaluate.empty_field(kind.kind, n)
    return columns
