"""How good scores are: by rank, by card and day, and at a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.resampling import Curve
from batch.weights import part, taken, weights
from riskflow.columns import F8, I8
from riskflow.policy import DAY_MS

Bools = NDArray[np.bool_]
ONCE = np.ones((1, 1))  # a draw of one entity


def ranking(score: F8, fraud: F8, weight: F8 | None = None) -> dict[str, float | None]:
    """auc and ap; None where there is only one class. weight: how many events each row stands for."""
    if len(np.unique(fraud)) < 2:
        return {"auc": None, "ap": None}
    curve = _curve(score, fraud, weight)
    return {"auc": float(curve.auc(ONCE)[0]), "ap": float(curve.ap(ONCE)[0])}


def average_precision(score: F8, fraud: F8, weight: F8 | None = None) -> float | None:
    """As in `ranking`; fraud may be the probability of it. None where there is none."""
    return float(_curve(score, fraud, weight).ap(ONCE)[0]) if fraud.any() else None


def _curve(score: F8, fraud: F8, weight: F8 | None) -> Curve:
    """One that is drawn once, as it is."""
    return Curve(fraud, score, np.zeros(len(score), np.int64), weight)


def card_precision(score: F8, fraud: F8, card: I8, at_ms: I8, k: int, weight: F8 | None = None) -> float:
    """Mean over days of the share of frauds among the k highest cards; a card that was found is out on later days.

    A card stands for as many cards as its highest row does for events. Source: Le Borgne et al., Reproducible Machine
    Learning for Credit Card Fraud Detection, chapter 4.
    """
    day = at_ms // DAY_MS
    found = np.zeros(0, np.int64)
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~np.isin(card, found))
        cards, hits = _cards_found(score[rows], fraud[rows], card[rows], k, weights(part(weight, rows), len(rows)))
        found = np.concatenate([found, cards])
        shares.append(hits / k)
    return float(np.mean(shares)) if shares else 0.0


def _cards_found(score: F8, fraud: F8, card: I8, k: int, each: F8) -> tuple[I8, float]:
    """The fraudulent ones among the k cards with the highest scores of a day, and how many they stand for."""
    cards, first, number = np.unique(card, return_index=True, return_inverse=True)
    by_score = np.argsort(-score, kind="stable")
    top = by_score[np.unique(card[by_score], return_index=True)[1]]  # the highest row of each card
    bad = np.zeros(len(cards))
    np.maximum.at(bad, number, fraud)
    ranked = np.lexsort((first, -score[top]))  # equal scores: the card that was seen first
    among = taken(each[top][ranked], k) * (bad[ranked] > 0)
    return cards[ranked[among > 0]], float(among.sum())


def at_threshold(
    score: F8, fraud: F8, at_ms: I8, threshold: float | None, weight: F8 | None = None
) -> dict[str, float | None]:
    """accuracy, precision, recall, f1 and alerts a day when everything from the threshold on is looked at."""
    flagged = score >= (np.inf if threshold is None else threshold)
    bad = fraud > 0
    each = weights(weight, len(score))
    hits = float(each[flagged & bad].sum())
    precision, recall = _share(hits, each[flagged].sum()), _share(hits, each[bad].sum())
    return {
        "accuracy": float(each[flagged == bad].sum() / each.sum()),
        "precision": precision,
        "recall": recall,
        "f1": _f1(precision, recall),
        "alerts_per_day": float(each[flagged].sum()) / days(at_ms),
    }


def lift(score: F8, fraud: F8, share: float = 0.01, weight: F8 | None = None) -> float | None:
    """How many times the usual rate of fraud lies in the highest share of scores."""
    order, each = np.argsort(-score, kind="stable"), weights(weight, len(score))
    top = taken(each[order], max(1, round(each.sum() * share)))
    return _share(float(np.average(fraud[order], weights=top)), np.average(fraud, weights=each))


def days(at_ms: I8) -> float:
    """Length of a span; less than one day counts as one."""
    return max(1.0, float(at_ms.max() - at_ms.min()) / DAY_MS) if len(at_ms) else 1.0


def difference(
    score: F8, other: F8, threshold: float | None, other_threshold: float | None, weight: F8 | None = None
) -> dict[str, float]:
    """Row by row against another bundle: how far scores move and how many rows change sides."""
    gap = np.abs(score - other)
    mine = score >= (np.inf if threshold is None else threshold)
    its = other >= (np.inf if other_threshold is None else other_threshold)
    return {
        "largest": float(gap.max()),
        "mean": float(np.average(gap, weights=weight)),
        "change_sides": float(np.average(mine != its, weights=weight)),
        "newly_flagged": int((mine & ~its).sum()),
        "no_longer_flagged": int((its & ~mine).sum()),
    }


def _share(part: float, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _f1(precision: float | None, recall: float | None) -> float | None:
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
