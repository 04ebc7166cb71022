"""False positives and recall of groups: nobody pays for the average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batch.gates.base import Declared, Gate, Place, Positive, Share, Whole, need_fields
from riskflow.errors import DeclarationError

if TYPE_CHECKING:
    from batch.gates.case import Case
    from riskflow.plan import Plan


class Segments(Declared, tag="segments"):
    """Bounds that hold in every group with enough rows. An event counts as flagged when it is not approved."""

    by: list[str]
    most_false_positives: Share | None = None  # of a group's genuine events, those that are flagged
    most_times_overall: Positive | None = None  # the same, as a multiple of that share over all rows
    least_recall: Share | None = None  # of a group's frauds, those that are flagged
    fewest: Whole = 100  # genuine events that a share of false positives must be seen on
    fewest_frauds: Whole = 10  # frauds that a recall must be seen on

    @property
    def name(self) -> str:
        return f"segments {','.join(self.by)}"

    def check(self, plan: Plan, at: Place) -> None:
        need_fields(plan, self.by, at("by"))
        if not self.by or (self.most_false_positives, self.most_times_overall, self.least_recall) == (None,) * 3:
            raise DeclarationError(
                at(""), "has no groups or no bound",
                "Give by: [field] and most_false_positives, most_times_overall or least_recall",
            )  # fmt: skip

    def judge(self, case: Case) -> Gate:
        groups = {f"{field}={group}": rows for field in self.by for group, rows in case.groups(field).items()}
        flagged, fraud = case.flagged, case.validation.fraud > 0
        each = case.weights
        overall = _figures(flagged, fraud, each)
        figures = {name: _figures(flagged[rows], fraud[rows], each[rows]) for name, rows in sorted(groups.items())}
        broken = [text for name, found in figures.items() for text in self._broken(name, found, overall)]
        wanted = ", ".join(
            f"{name.replace('_', ' ')} {bound:g}"
            for name, bound in (
                ("most_false_positives", self.most_false_positives), ("most_times_overall", self.most_times_overall),
                ("least_recall", self.least_recall),
            )
            if bound is not None
        )  # fmt: skip
        found = "; ".join(broken) or f"{len(figures)} groups within bounds"
        return self.outcome(not broken, found, wanted, overall=overall, groups=figures)

    def _broken(self, name: str, found: dict[str, Any], overall: dict[str, Any]) -> list[str]:
        out = []
        rate, usual, recall = found["false_positive_rate"], overall["false_positive_rate"], found["recall"]
        if found["genuine"] >= self.fewest:
            if self.most_false_positives is not None and rate > self.most_false_positives:
                out.append(f"{name} false positives {rate:.4f}")
            if self.most_times_overall is not None and rate > self.most_times_overall * usual:
                out.append(f"{name} false positives {rate:.4f}, overall {usual:.4f}")
        enough = found["frauds"] >= self.fewest_frauds
        if self.least_recall is not None and enough and recall < self.least_recall:
            out.append(f"{name} recall {recall:.4f}")
        return out


def _figures(flagged: Any, fraud: Any, each: Any) -> dict[str, Any]:
    """Rows that are genuine and fraud, and shares of the events that they stand for."""
    return {
        "genuine": int((~fraud).sum()), "frauds": int(fraud.sum()),
        "false_positive_rate": _share(flagged[~fraud], each[~fraud]), "recall": _share(flagged[fraud], each[fraud]),
    }  # fmt: skip


def _share(flagged: Any, each: Any) -> float | None:
    return float(each[flagged].sum() / each.sum()) if len(each) else None
