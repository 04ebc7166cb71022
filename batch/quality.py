"""How good scores are over a span, and how good they should be where nobody knows the truth yet.

The same figures twice. *Measured* from what events turned out to be. *Estimated* from calibrated scores: an event with
the score p is p of a fraud and 1 - p of a genuine one, so that the expected number of frauds among those flagged is the
sum of their scores (confidence-based performance estimation: Bialek, Kuberski, Perrakis and Bifet, Estimating Model
Performance Under Covariate Shift Without Labels, 2024). That holds as long as scores are calibrated; where fraud itself
has changed, only labels show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from riskflow.columns import F8, I8
from riskflow.policy import DAY_MS

WEEK_DAYS = 7
MONDAY = 3  # 1 January 1970 was a Thursday


@dataclass(frozen=True)
class AtThreshold:
    """Events from a threshold on. precision: of them, how many are fraud; recall: of frauds, how many are there."""

    threshold: float
    events: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Quality:
    """`frauds` is a sum of probabilities where it is estimated. ap: average precision."""

    events: int
    frauds: float
    ap: float | None
    at: dict[str, AtThreshold]  # by action

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimated(score: F8, policy: Mapping[str, Any]) -> Quality:
    """Expected quality of these calibrated scores; the policy's thresholds are those of a bundle."""
    return quality(score, score, policy)


def quality(score: F8, fraud: F8, policy: Mapping[str, Any]) -> Quality:
    """fraud: 1 or 0, or the probability of it."""
    wanted = {action: policy[action] for action in ("review", "decline") if policy.get(action) is not None}
    at = {action: _at(score, fraud, threshold) for action, threshold in wanted.items()}
    return Quality(len(score), float(fraud.sum()), average_precision(score, fraud), at)


def _at(score: F8, fraud: F8, threshold: float) -> AtThreshold:
    flagged = score >= threshold
    events, hits, frauds = int(flagged.sum()), float(fraud[flagged].sum()), float(fraud.sum())
    return AtThreshold(threshold, events, hits / events if events else None, hits / frauds if frauds else None)


def average_precision(score: F8, fraud: F8) -> float | None:
    """The sum over thresholds of the gain in recall times precision, as scikit-learn has it; frauds may be parts."""
    total = float(fraud.sum())
    if not total:
        return None
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits = np.cumsum(fraud[order])[ends]
    return float(np.sum(np.diff(hits, prepend=0.0) * hits / (ends + 1)) / total)


def by_week(score: F8, fraud: F8, at_ms: I8, policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measured quality of each week, Monday to Sunday, UTC."""
    week = (at_ms // DAY_MS + MONDAY) // WEEK_DAYS
    out = []
    for one in np.unique(week).tolist():
        mine = week == one
        found = quality(score[mine], fraud[mine], policy).to_json()
        out.append({"from_ms": (one * WEEK_DAYS - MONDAY) * DAY_MS, **found})
    return out


def spread_of_share(share: float, events: float) -> float:
    """The standard error of a share seen on so many events; half an event is added to either side, so it is not 0."""
    share = (share * events + 0.5) / (events + 1)
    return float(np.sqrt(share * (1 - share) / max(events, 1)))
