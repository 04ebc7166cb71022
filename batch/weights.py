"""Fits an estimator to rows that stand for more or less than one event each."""

from __future__ import annotations

import inspect
from typing import Any

from riskflow.columns import F8
from riskflow.errors import RiskflowError

PARAMETER = "sample_weight"


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
