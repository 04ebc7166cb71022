"""How good scores are: by rank, by card and day, and at a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskflow.columns import F8, I8
from riskflow.policy import DAY_MS

Bools = NDArray[np.bool_]


def ranking(score: F8, fraud: F8, weight: F8 | None = None) -> dict[str, float | None]:
    """auc and ap; None where there is only one class. weight: how many events each row stands for."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if len(np.unique(fraud)) < 2:
        return {"auc": None, "ap": None}
    auc, ap = (m(fraud, score, sample_weight=weight) for m in (roc_auc_score, average_precision_score))
    return {"auc": float(auc), "ap": float(ap)}


def card_precision(score: F8, fraud: F8, card: I8, at_ms: I8, k: int) -> float:
    """Mean over days of the share of frauds among the k highest cards; a card that was found is out on later days.

    Source: Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection, chapter 4.
    """
    day = at_ms // DAY_MS
    found = np.zeros(0, np.int64)
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~np.isin(card, found))
        hits = _cards_found(score[rows], fraud[rows], card[rows], k)
        found = np.concatenate([found, hits])
        shares.append(len(hits) / k)
    return float(np.mean(shares)) if shares else 0.0


def _cards_found(score: F8, fraud: F8, card: I8, k: int) -> I8:
    """The fraudulent ones among the k cards with the highest scores of a day."""
    cards, first, number = np.unique(card, return_index=True, return_inverse=True)
    highest, bad = np.full(len(cards), -np.inf), np.zeros(len(cards))
    np.maximum.at(highest, number, score)
    np.maximum.at(bad, number, fraud)
    ranked = np.lexsort((first, -highest))[:k]  # equal scores: the card that was seen first
    return cards[ranked[bad[ranked] > 0]]


def at_threshold(
    score: F8, fraud: F8, at_ms: I8, threshold: float | None, weight: F8 | None = None
) -> dict[str, float | None]:
    """accuracy, precision, recall, f1 and alerts a day when everything from the threshold on is looked at."""
    flagged = score >= (np.inf if threshold is None else threshold)
    bad = fraud > 0
    each = np.ones(len(score)) if weight is None else weight
    hits = float(each[flagged & bad].sum())
    precision, recall = _share(hits, each[flagged].sum()), _share(hits, each[bad].sum())
    return {
        "accuracy": float(each[flagged == bad].sum() / each.sum()),
        "precision": precision,
        "recall": recall,
        "f1": _f1(precision, recall),
        "alerts_per_day": float(each[flagged].sum()) / days(at_ms),
    }


def lift(score: F8, fraud: F8, share: float = 0.01) -> float | None:
    """How many times the usual rate of fraud lies in the highest share of scores."""
    top = np.argsort(-score, kind="stable")[: max(1, round(len(score) * share))]
    return _share(float(fraud[top].mean()), fraud.mean())


def days(at_ms: I8) -> float:
    """Length of a span; less than one day counts as one."""
    return max(1.0, float(at_ms.max() - at_ms.min()) / DAY_MS) if len(at_ms) else 1.0


def difference(score: F8, other: F8, threshold: float | None, other_threshold: float | None) -> dict[str, float]:
    """Row by row against another bundle: how far scores move and how many rows change sides."""
    gap = np.abs(score - other)
    mine = score >= (np.inf if threshold is None else threshold)
    its = other >= (np.inf if other_threshold is None else other_threshold)
    return {
        "largest": float(gap.max()),
        "mean": float(gap.mean()),
        "change_sides": float((mine != its).mean()),
        "newly_flagged": int((mine & ~its).sum()),
        "no_longer_flagged": int((its & ~mine).sum()),
    }


def _share(part: float, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _f1(precision: float | None, recall: float | None) -> float | None:
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
