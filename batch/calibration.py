"""Turns a model's output into a probability by points {x, y}, outside the ONNX graph.

Beta calibration (Kull, Silva Filho, Flach 2017): the log odds are a ln(x) - b ln(1 - x) + c with a, b >= 0.
It rises strictly, so it never changes which of two events ranks higher; an isotonic fit has flat steps, which would.
"""

from __future__ import annotations

import numpy as np

from riskflow.columns import F8

FEWEST = 30  # of either class; with fewer the output is left as it is
EDGE = 1e-5  # outputs of 0 and 1 have no logarithm
_LOG_ODDS = np.linspace(-np.log(1 / EDGE - 1), np.log(1 / EDGE - 1), 257)

Points = dict[str, list[float]]


def calibration_points(output: F8, fraud: F8, weight: F8 | None = None) -> Points | None:
    """Points of the curve that fits out-of-time outputs best; None where there are too few to say.

    weight: how many events each row stands for; one by default.
    """
    if min(fraud.sum(), (1 - fraud).sum()) < FEWEST:
        return None
    curve = _fit(output, fraud, weight)
    if curve is None:
        return None
    x = 1 / (1 + np.exp(-_LOG_ODDS))
    y = 1 / (1 + np.exp(-(_parts(x) @ curve[:2] + curve[2])))
    return {"x": [0.0, *x.tolist(), 1.0], "y": [0.0, *y.tolist(), 1.0]}


def _parts(output: F8) -> F8:
    x = np.clip(output, EDGE, 1 - EDGE)
    return np.column_stack([np.log(x), -np.log1p(-x)])


def _fit(output: F8, fraud: F8, weight: F8 | None) -> F8 | None:
    """(a, b, c); a part whose factor would be negative is left out, as the paper does."""
    from sklearn.linear_model import LogisticRegression

    parts = _parts(output)
    for used in ([0, 1], [0], [1]):
        model = LogisticRegression(C=1e6, max_iter=1000).fit(parts[:, used], fraud, sample_weight=weight)
        if (model.coef_[0] >= 0).all() and model.coef_[0].sum() > 0:
            curve = np.zeros(3)
            curve[used], curve[2] = model.coef_[0], model.intercept_[0]
            return curve
    return None
