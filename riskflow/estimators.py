"""Steps for pipelines in models.py that scikit-learn does not have, each with its form in ONNX.

Import them inside a candidate's factory: workers load a use case too, and need no scikit-learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

EDGE = 2.0**-20  # probabilities nearer to 0 or 1 count as this near; 1 - EDGE is exact in float32 too
ROOTS = 6
SCALE = float(2**ROOTS)


class LogOdds(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Probabilities as log(p / (1 - p)), so that a linear model adds what several models say.

    The logarithm is taken as 64 (x^(1/64) - 1), a Box-Cox transform, by six square roots. onnxruntime's own logarithm
    gives other last bits in vector registers than outside them, so a score would depend on where a block was cut;
    a square root is exact everywhere.

    >>> LogOdds().fit_transform(np.array([[0.5, 0.9]])).round(3).tolist()
    [[0.0, 2.235]]
    """

    def fit(self, x: Any, y: Any = None) -> LogOdds:
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x: Any) -> NDArray[np.float64]:
        p = np.clip(np.asarray(x, np.float64), EDGE, 1 - EDGE)
        root = p / (1 - p)
        for _ in range(ROOTS):
            root = np.sqrt(root)
        return np.asarray((root - 1) * SCALE)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")


def register_converters() -> None:
    """Tells skl2onnx how these steps are written; harmless when done twice."""
    from skl2onnx import update_registered_converter

    update_registered_converter(LogOdds, "RiskflowLogOdds", _log_odds_shape, _log_odds_onnx, overwrite=True)


def _log_odds_shape(operator: Any) -> None:
    operator.outputs[0].type = operator.inputs[0].type.__class__([None, operator.inputs[0].type.shape[1]])


def _log_odds_onnx(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.algebra.onnx_ops import OnnxClip, OnnxDiv, OnnxMul, OnnxSqrt, OnnxSub

    v = container.target_opset
    p = OnnxClip(operator.inputs[0], np.array(EDGE, np.float32), np.array(1 - EDGE, np.float32), op_version=v)
    one = np.array([1.0], np.float32)
    root = OnnxDiv(p, OnnxSub(one, p, op_version=v), op_version=v)
    for _ in range(ROOTS):
        root = OnnxSqrt(root, op_version=v)
    above = OnnxSub(root, one, op_version=v)
    scaled = OnnxMul(above, np.array([SCALE], np.float32), op_version=v, output_names=operator.outputs)
    scaled.add_to(scope, container)
