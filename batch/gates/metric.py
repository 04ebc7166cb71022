"""A figure on the validation rows, held to a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.gates.base import Declared, Gate, Place, bounds_in_words, need_bound, within
from riskflow.errors import DeclarationError

if TYPE_CHECKING:
    from batch.gates.case import Case
    from riskflow.plan import Plan

FIGURES = (
    "ap", "auc", "cp_at_k", "precision", "recall", "f1", "accuracy", "alerts_per_day", "lift_top_1", "train_rows",
    "train_frauds", "validation_rows", "validation_frauds",
)  # fmt: skip


class Metric(Declared, tag="metric"):
    """The candidate's figure on validation rows that it had not learned from."""

    metric: str = "ap"
    least: float | None = None
    most: float | None = None

    @property
    def name(self) -> str:
        return f"metric {self.metric}"

    def check(self, plan: Plan, at: Place) -> None:
        need_bound(self.least, self.most, at("least"))
        if self.metric not in FIGURES:
            raise DeclarationError(at("metric"), f"{self.metric!r} is no figure", f"Figures: {', '.join(FIGURES)}")

    def judge(self, case: Case) -> Gate:
        found = case.figures.get(self.metric)
        wanted = f"{bounds_in_words(self.least, self.most)} on {len(case.validation)} validation rows"
        passed = found is not None and within(found, self.least, self.most)
        return self.outcome(passed, found, wanted, rows=len(case.validation), frauds=case.validation.frauds)
