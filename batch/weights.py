"""Rows that stand for more than one event each: what they say of all events, and how an estimator learns from them.

Where a share of events was let through or sampled, each of them weighs one over its odds (batch/truth.py). Everywhere a
weight of None means that each row stands for itself alone.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from riskflow.columns import F8
from riskflow.errors import RiskflowError

PARAMETER = "sample_weight"


def weights(weight: F8 | None, rows: int) -> F8:
    """One for each row."""
    return np.ones(rows) if weight is None else weight


def part(weight: F8 | None, rows: Any) -> F8 | None:
    """Those of some of the rows."""
    return None if weight is None else weight[rows]


def counted(values: Any, weight: F8 | None = None) -> tuple[Any, Any]:
    """Distinct values, rising, and how many events have each."""
    if weight is None:
        return np.unique(values, return_counts=True)
    found, number = np.unique(values, return_inverse=True)
    return found, np.bincount(number, weights=weight, minlength=len(found))


def quantiles(values: F8, at: Any, weight: F8 | None = None) -> Any:
    """Where so many of the events lie below."""
    if weight is None:
        return np.quantile(values, at)
    return np.quantile(values, at, weights=weight, method="inverted_cdf")


def taken(ranked: F8, most: float) -> F8:
    """How much is taken of each of these weights, in order, until there are so many events; of the last one a part."""
    before = np.cumsum(ranked) - ranked
    out: F8 = np.clip(most - before, 0.0, ranked)
    return out


def fit(estimator: Any, matrix: Any, target: Any, weight: F8 | None) -> Any:
    """The fitted estimator; raises RiskflowError where weights are there and the estimator takes none.

    Of a pipeline the last step takes them: what stands before it fills and scales.
    """
    if weight is None:
        return estimator.fit(matrix, target)
    steps = getattr(estimator, "steps", None)
    last, name = (steps[-1][1], f"{steps[-1][0]}__{PARAMETER}") if steps else (estimator, PARAMETER)
    if PARAMETER not in inspect.signature(last.fit).parameters:
        raise RiskflowError(
            f"{type(last).__name__} takes no {PARAMETER}, and rows that were let through or sampled are weighted. "
            "Take another estimator, or set declined: as_labelled in pipeline.yaml"
        )
    return estimator.fit(matrix, target, **{name: weight})
