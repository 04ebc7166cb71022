"""How good scores are over a span, and how good they should be where nobody knows the truth yet.

The same figures twice. *Measured* from what events turned out to be. *Estimated* from calibrated scores: an event with
the score p is p of a fraud and 1 - p of a genuine one, so that the expected number of frauds among those flagged is the
sum of their scores (confidence-based performance estimation: Bialek, Kuberski, Perrakis and Bifet, Estimating Model
Performance Under Covariate Shift Without Labels, 2024). That holds as long as scores are calibrated; where fraud itself
has changed, only labels show it.

Where rows stand for more than one event each, figures are of those that they stand for; how much is seen on them is
told by as many rows that stand for one (Kish, Survey Sampling, 1965).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from batch.metrics import average_precision
from batch.weights import part, weights
from riskflow.columns import F8, I8
from riskflow.policy import DAY_MS

WEEK_DAYS = 7
MONDAY = 3  # 1 January 1970 was a Thursday


@dataclass(frozen=True)
class AtThreshold:
    """Events from a threshold on. precision: of them, how many are fraud; recall: of frauds, how many are there."""

    threshold: float
    events: float
    precision: float | None
    recall: float | None
    seen_on: float = 0.0  # as many rows of one event each


@dataclass(frozen=True)
class Quality:
    """`frauds` is a sum of probabilities where it is estimated. ap: average precision."""

    events: float
    frauds: float
    ap: float | None
    at: dict[str, AtThreshold]  # by action
    frauds_seen: float = 0.0  # rows of one fraud each that tell as much

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimated(score: F8, policy: Mapping[str, Any]) -> Quality:
    """Expected quality of these calibrated scores; the policy's thresholds are those of a bundle."""
    return quality(score, score, policy)


def quality(score: F8, fraud: F8, policy: Mapping[str, Any], weight: F8 | None = None) -> Quality:
    """fraud: 1 or 0, or the probability of it. weight: how many events each row stands for; None: one."""
    each = weights(weight, len(score))
    wanted = {action: policy[action] for action in ("review", "decline") if policy.get(action) is not None}
    at = {action: _at(score, fraud, threshold, each) for action, threshold in wanted.items()}
    frauds = each * fraud
    return Quality(
        float(each.sum()), float(frauds.sum()), average_precision(score, fraud, weight), at, effective_rows(each, fraud)
    )


def _at(score: F8, fraud: F8, threshold: float, each: F8) -> AtThreshold:
    flagged = score >= threshold
    events, frauds = float(each[flagged].sum()), float((each * fraud).sum())
    hits = float((each * fraud)[flagged].sum())
    precision, recall = hits / events if events else None, hits / frauds if frauds else None
    return AtThreshold(threshold, events, precision, recall, effective_rows(each[flagged]))


def effective_rows(weight: F8, part: F8 | float = 1.0) -> float:
    """As how many rows of weight one these count. part: how much of each, from 0 to 1."""
    squares = float((weight**2 * part).sum())
    return float((weight * part).sum()) ** 2 / squares if squares else 0.0


def by_week(
    score: F8, fraud: F8, at_ms: I8, policy: Mapping[str, Any], weight: F8 | None = None
) -> list[dict[str, Any]]:
    """Measured quality of each week, Monday to Sunday, UTC."""
    week = (at_ms // DAY_MS + MONDAY) // WEEK_DAYS
    out = []
    for one in np.unique(week).tolist():
        mine = week == one
        found = quality(score[mine], fraud[mine], policy, part(weight, mine)).to_json()
        out.append({"from_ms": (one * WEEK_DAYS - MONDAY) * DAY_MS, **found})
    return out


def spread_of_share(share: float, events: float) -> float:
    """The standard error of a share seen on so many events; half an event is added to either side, so it is not 0."""
    share = (share * events + 0.5) / (events + 1)
    return float(np.sqrt(share * (1 - share) / max(events, 1)))
