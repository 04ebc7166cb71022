"""What was exported gives what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.gates.base import Declared, Gate, Positive

if TYPE_CHECKING:
    from batch.gates.case import Case


class OnnxParity(Declared, tag="onnx_parity"):
    """The largest difference between scikit-learn and ONNX, over training rows and all layers."""

    most: Positive = 1e-5

    def judge(self, case: Case) -> Gate:
        largest = case.best.furthest
        layers = dict(case.best.parity)
        return self.outcome(largest <= self.most, f"{largest:.3g}", f"at most {self.most:g}", layers=layers)
