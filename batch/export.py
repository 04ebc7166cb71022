"""scikit-learn estimators as ONNX, and how far the two are apart.

Exported as they are: HistGradientBoosting (NaN included), logistic regression and random forest behind a SimpleImputer
(without `add_indicator`), StandardScaler, soft VotingClassifier over these. A random forest that meets NaN itself is
exported without its missing-value branches and differs by up to 0.3: `onnx_parity` on rows with NaN shows it. What
HistGradientBoosting learns with `categorical_features` cannot be said in ONNX, and is refused.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np

from riskflow.errors import RiskflowError
from riskflow.scoring import session_of

OPSET = {"": 17, "ai.onnx.ml": 3}
INPUT = "X"


def to_onnx(estimator: Any, inputs: int) -> bytes:
    """A fitted binary classifier (or pipeline that ends in one) on a float32 matrix with so many columns."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    if list(getattr(estimator, "classes_", [])) not in ([0, 1], [False, True]):
        found = getattr(estimator, "classes_", None)
        raise RiskflowError(f"{type(estimator).__name__} has the classes {found}, not 0 and 1. Train it on both")
    estimator = _exportable(estimator)
    with warnings.catch_warnings():
        # skl2onnx hands booleans to protobuf where it wants integers; hence also protobuf<7
        warnings.filterwarnings("ignore", "Field onnx", DeprecationWarning)
        model = convert_sklearn(
            estimator,
            name="riskflow",  # a random one otherwise, and then no two exports have one hash
            initial_types=[(INPUT, FloatTensorType([None, inputs]))],
            target_opset=OPSET,
            options={id(estimator): {"zipmap": False}},
        )
    content: bytes = model.SerializeToString()
    return content


def _exportable(estimator: Any) -> Any:
    """The same estimator with the settings that skl2onnx wants; none of them changes a probability."""
    if np.any(getattr(estimator, "is_categorical_", None)):
        raise RiskflowError(
            f"{type(estimator).__name__} has learned with categorical_features, which ONNX cannot say: the exported "
            "model would take a code for a number. Leave categorical_features out"
        )
    if hasattr(estimator, "steps"):
        estimator = copy.copy(estimator)
        estimator.steps = [(name, _exportable(step)) for name, step in estimator.steps]
    elif hasattr(estimator, "flatten_transform"):  # soft voting
        estimator = copy.copy(estimator)
        estimator.flatten_transform = False
        estimator.estimators_ = [_exportable(e) for e in estimator.estimators_]
        estimator.weights = None if estimator.weights is None else np.asarray(estimator.weights, np.float64)
    return estimator


def onnx_parity(estimator: Any, onnx_bytes: bytes, matrix: Any) -> float:
    """The largest absolute difference between both probabilities of class 1 on a matrix (cast to float32 for both)."""
    matrix = np.ascontiguousarray(matrix, np.float32)
    session = session_of(onnx_bytes, "exported model")
    got = session.run([session.get_outputs()[-1].name], {INPUT: matrix})[0][:, 1]
    return float(np.abs(got.astype(np.float64) - estimator.predict_proba(matrix)[:, 1]).max())
