"""Not worse than the champion by more than a margin, on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from batch.gates.base import Declared, Gate, Share

if TYPE_CHECKING:
    from batch.gates.case import Case

Draws = Annotated[int, Meta(ge=100, le=20_000)]
SHOWN = 0.9  # of the interval in the evidence where no confidence decides


class NotWorse(Declared, tag="not_worse"):
    """Non-inferiority: the candidate reaches at least 1 - margin of the champion's figure.

    Without `confidence` the two figures are compared as they are, and the interval is evidence. With it the lower end
    of the one-sided interval of a paired bootstrap decides (batch/resampling.py): entities are drawn, and each draw
    measures both.
    """

    metric: Literal["ap", "auc"] = "ap"
    margin: Share = 0.05
    confidence: Annotated[float, Meta(gt=0.5, lt=1)] | None = None
    draws: Draws = 500

    def judge(self, case: Case) -> Gate:
        from batch.resampling import Curve, Groups, compare

        beside = case.beside
        if beside.rows is None:
            mine = case.figures[self.metric]
            return self.outcome(mine is not None, mine, f"any {self.metric}: {beside.basis}")
        rows = beside.rows
        groups = Groups.of(case.entity(rows), rows.fraud)
        curves = [Curve(rows.fraud, score, groups.number, rows.weight) for score in (beside.other, beside.score)]
        its, mine = (getattr(curve, self.metric) for curve in curves)
        [drawn] = compare(its, [mine], groups, self.draws)
        part = 1 - self.margin
        low, high = drawn.bounds(1 - (self.confidence or SHOWN), part)
        evidence = {
            "candidate": drawn.mine, "champion": drawn.its, "margin": self.margin, "rows": len(rows),
            "frauds": rows.frauds, "draws": drawn.draws, "confidence": self.confidence or SHOWN,
            "difference_to_wanted": {"low": low, "high": high}, "champion_version": beside.version,
        }  # fmt: skip
        wanted = f"at least {part * drawn.its:.4f}, {part:g} of the champion's {drawn.its:.4f} on {beside.where}"
        if self.confidence is None:
            return self.outcome(drawn.mine >= part * drawn.its, round(drawn.mine, 6), wanted, **evidence)
        found = f"{drawn.mine:.4f}, with confidence {self.confidence:g} at least {part * drawn.its + low:.4f}"
        return self.outcome(low >= 0, found, wanted, **evidence)
