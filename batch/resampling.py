"""How sure a difference between two scores is: both measured on the same rows, drawn again and again.

Groups of rows are drawn with replacement, not rows: payments of one card are not independent of each other. Source:
Efron and Tibshirani, An Introduction to the Bootstrap, 1993; drawing clusters: Field and Welsh, 2007.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskflow.columns import F8, I8

SEED = 20_260_101
AT_ONCE = 500_000  # cells of draws by rows in memory


@dataclass(frozen=True)
class Drawn:
    """Both figures on all rows, and on each draw."""

    mine: float
    its: float
    mine_drawn: F8
    its_drawn: F8

    @property
    def draws(self) -> int:
        return len(self.mine_drawn)

    def interval(self, part: float = 1.0, confidence: float = 0.9) -> tuple[float, float]:
        """Ends of mine - part * its, each one-sided at this confidence; a draw without frauds says nothing."""
        difference = self.mine_drawn - part * self.its_drawn
        low, high = np.nanquantile(difference, [1 - confidence, confidence])
        return float(low), float(high)


def paired_bootstrap(
    metric: str,
    fraud: F8,
    score: F8,
    other: F8,
    *,
    groups: I8,
    weight: F8 | None = None,
    draws: int = 500,
    seed: int = SEED,
) -> Drawn:
    """metric: `ap` or `auc`. groups: which rows are drawn together. The same input gives the same draws."""
    curves = [Curve(fraud, s) for s in (score, other)]
    measure = [getattr(curve, metric) for curve in curves]
    base = np.ones(len(fraud)) if weight is None else weight
    number = np.unique(groups, return_inverse=True)[1]
    among = int(number.max()) + 1
    rng = np.random.default_rng(seed)
    drawn: list[list[F8]] = [[], []]
    step = max(1, AT_ONCE // max(len(fraud), 1))
    for first in range(0, draws, step):
        times = rng.multinomial(among, np.full(among, 1 / among), size=min(step, draws - first))
        weights = times[:, number] * base
        for into, figure in zip(drawn, measure, strict=True):
            into.append(figure(weights))
    whole = [float(figure(base[None, :])[0]) for figure in measure]
    return Drawn(*whole, *(np.concatenate(parts) for parts in drawn))


class Curve:
    """Rows in order of score, to be measured under many weightings at once; equal scores are one step."""

    def __init__(self, fraud: F8, score: F8) -> None:
        self._order = np.argsort(-score, kind="stable")
        ranked = score[self._order]
        self._steps = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        self._fraud = fraud[self._order]

    def ap(self, weights: F8) -> F8:
        """Average precision of each weighting (a row of weights): the sum of precision times the step in recall."""
        hits, flagged = self._sums(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(flagged > 0, hits / flagged, 0.0)
            found: F8 = (precision * np.diff(hits, axis=1, prepend=0.0)).sum(axis=1) / hits[:, -1]
        return found

    def auc(self, weights: F8) -> F8:
        """Area under the ROC curve of each weighting, by trapezoids."""
        hits, flagged = self._sums(weights)
        wrong = flagged - hits
        with np.errstate(invalid="ignore", divide="ignore"):
            heights = hits - np.diff(hits, axis=1, prepend=0.0) / 2
            area: F8 = (heights * np.diff(wrong, axis=1, prepend=0.0)).sum(axis=1) / (hits[:, -1] * wrong[:, -1])
        return area

    def _sums(self, weights: F8) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weight of frauds and of all rows from each step on."""
        ranked = weights[:, self._order]
        hits = np.cumsum(ranked * self._fraud, axis=1)[:, self._steps]
        return hits, np.cumsum(ranked, axis=1)[:, self._steps]
