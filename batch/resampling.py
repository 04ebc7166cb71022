"""How sure a difference between two scorers is: both are measured on the same rows, drawn again and again.

Entities are drawn, not rows: events of one customer are alike. Each draw gives every entity an exponential weight
(Rubin, The Bayesian Bootstrap, 1981), the same one for all that are compared: nobody is left out whole, so no draw is
without fraud. Bounds are the wider ones of the percentiles and of Student's with the deviation of the draws: with few
entities that have frauds percentiles alone are too narrow (docs/decisions/0016).

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 13 and 16 (percentile and studentized bounds);
Field and Welsh 2007, Bootstrapping Clustered Data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from batch.weights import weights
from riskflow.columns import F8, I8

SEED = 20_260_101
AT_ONCE = 4_000_000  # weights of draws that are in memory at once
Statistic = Callable[[F8], F8]  # weights of the entities, one row for each draw -> a figure for each draw


@dataclass(frozen=True)
class Groups:
    """The entity of each row, as a number from 0 on; how many there are, and how many of them have frauds."""

    number: I8
    size: int
    defrauded: int

    @classmethod
    def of(cls, entity: I8, fraud: F8) -> Groups:
        found, number = np.unique(entity, return_inverse=True)
        return cls(number, len(found), len(np.unique(number[fraud > 0])))


@dataclass(frozen=True)
class Paired:
    """A figure of two, on all rows and on each draw; more is better."""

    mine: float
    its: float
    mine_drawn: F8
    its_drawn: F8
    defrauded: int  # entities with frauds: what the deviation comes from

    @property
    def draws(self) -> int:
        return len(self.mine_drawn)

    def bounds(self, level: float, part: float = 1.0) -> tuple[float, float]:
        """The ends of mine - part * its; in a share `level` of worlds the true value lies below, in as many above."""
        from scipy.stats import t as student

        difference, drawn = self.mine - part * self.its, self.mine_drawn - part * self.its_drawn
        freedom = max(1, self.defrauded - 1)
        low, high = (float(q) for q in np.quantile(drawn, [level, 1 - level]))
        deviation = float(drawn.std(ddof=1)) * (1 + 1 / freedom) ** 0.5
        spread = float(student.ppf(1 - level, freedom)) * deviation
        return min(low, difference - spread), max(high, difference + spread)


def compare(its: Statistic, others: Sequence[Statistic], groups: Groups, draws: int, seed: int = SEED) -> list[Paired]:
    """Each of the others beside one. The same input gives the same draws."""
    statistics, rng = [its, *others], np.random.default_rng(seed)
    parts: list[list[F8]] = [[] for _ in statistics]
    step = max(1, AT_ONCE // groups.size)
    for first in range(0, draws, step):
        drawn = rng.exponential(size=(min(step, draws - first), groups.size))
        for found, statistic in zip(parts, statistics, strict=True):
            found.append(statistic(drawn))
    whole = [float(statistic(np.ones((1, groups.size)))[0]) for statistic in statistics]
    figures = [np.concatenate(found) for found in parts]
    pairs = zip(whole[1:], figures[1:], strict=True)
    return [Paired(mine, whole[0], drawn, figures[0], groups.defrauded) for mine, drawn in pairs]


class Curve:
    """Rows in order of score, to be measured under many weightings of their entities; equal scores are one step."""

    def __init__(self, fraud: F8, score: F8, group: I8, weight: F8 | None = None) -> None:
        order = np.argsort(-score, kind="stable")
        ranked, each = score[order], weights(weight, len(score))[order]
        self._group = group[order]
        self._bad, self._good = each * fraud[order], each * (1 - fraud[order])
        self._last = np.append(ranked[1:] != ranked[:-1], True)  # of a step

    def ap(self, drawn: F8) -> F8:
        """Average precision under each weighting: the sum of precision times the step in recall."""
        return self._areas(drawn)[0]

    def auc(self, drawn: F8) -> F8:
        """Area under the ROC curve under each weighting, by trapezoids."""
        return self._areas(drawn)[1]

    def _areas(self, drawn: F8) -> Any:
        return _areas(drawn, self._group, self._bad, self._good, self._last)


@njit(cache=True)
def _areas(drawn, group, bad, good, last):  # type: ignore[no-untyped-def]
    """Both areas of each draw, in one pass over the rows: matrices of draws by rows would take most of the time."""
    out = np.full((2, drawn.shape[0]), np.nan)
    for draw in range(drawn.shape[0]):
        hits = wrong = hits_before = wrong_before = precise = area = 0.0
        for row in range(len(group)):
            weight = drawn[draw, group[row]]
            hits += weight * bad[row]
            wrong += weight * good[row]
            if last[row]:
                if hits > hits_before:
                    precise += (hits - hits_before) * hits / (hits + wrong)
                area += (wrong - wrong_before) * (hits + hits_before) / 2
                hits_before, wrong_before = hits, wrong
        if hits > 0:
            out[0, draw] = precise / hits
            if wrong > 0:
                out[1, draw] = area / (hits * wrong)
    return out
