"""The horse race: whether a challenger is better than the champion, on events whose truth is known by now.

All that race have scored the same events. The difference of a metric between challenger and champion is drawn again by
a paired bootstrap over entities: each replicate gives every entity a weight, the same one for both, so that events of
one customer, which are alike, count as one draw. A challenger is better when the lower bound of its difference is above
the margin; the bound leaves alpha / (number of challengers) below it (Bonferroni), so the chance that any one is
promoted which is no better is at most alpha. That holds for one look at a horizon that was fixed before, so a race is
judged once.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 13 and 16 (percentile and studentized bounds);
Field and Welsh 2007, Bootstrapping Clustered Data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.resampling import Curve
from batch.weights import weights
from riskflow.columns import F8, I8
from riskflow.policy import APPROVE, DECLINE

AVERAGE_PRECISION, COST = "average_precision", "cost"
AT_ONCE = 4_000_000  # weights that are in memory at once
Weights = NDArray[np.float64]  # (replicates, rows)
Statistic = Callable[[Weights], NDArray[np.float64]]


@dataclass(frozen=True)
class Money:
    """What decisions cost, for one event each; `lost` has one value for each row: what is lost when it is missed."""

    lost: F8
    review: float
    wrong_decline: float


@dataclass(frozen=True)
class Entrant:
    """Somebody's scores and actions, one for each row of the race."""

    version: int
    score: F8
    action: NDArray[Any]


@dataclass(frozen=True)
class Standing:
    """How a challenger did beside the champion. `difference` is positive where it is better."""

    version: int
    metric: str
    challenger: float
    champion: float
    difference: float
    lower: float
    upper: float
    wins: bool


@dataclass(frozen=True)
class Result:
    """Of one race. `winner` is the version of the best of those that beat the champion."""

    winner: int | None
    champion: int
    rows: int
    frauds: int
    entities: int
    alpha: float
    standings: list[Standing]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def race(
    champion: Entrant,
    challengers: list[Entrant],
    fraud: F8,
    entity: I8,
    *,
    alpha: float = 0.05,
    margin: float = 0.0,
    replicates: int = 2_000,
    metric: str = AVERAGE_PRECISION,
    money: Money | None = None,
    weight: F8 | None = None,
    seed: int = 0,
) -> Result:
    """Judges all challengers on the same rows; raises ValueError where there are none.

    fraud: 1 or 0; entity: a number for whom each row is about; weight: how many events each stands for, None: one.
    """
    if not challengers or not len(fraud):
        raise ValueError("a race needs challengers and rows")
    names, number = np.unique(entity, return_inverse=True)
    statistics = [_statistic(e, fraud, metric, money) for e in (champion, *challengers)]
    each = weights(weight, len(fraud))
    drawn = _drawn(statistics, number, len(names), each, replicates, np.random.default_rng(seed))
    whole = [float(s(each[None, :])[0]) for s in statistics]
    level, defrauded = alpha / len(challengers), len(np.unique(number[fraud > 0]))
    standings = [
        _standing(e.version, metric, whole[i], whole[0], drawn[i] - drawn[0], defrauded, level, margin)
        for i, e in enumerate(challengers, 1)
    ]
    best = max((s for s in standings if s.wins), key=lambda s: (s.difference, -s.version), default=None)
    return Result(
        best.version if best else None, champion.version, len(fraud), int(fraud.sum()), len(names), alpha, standings
    )


def _standing(
    version: int, metric: str, mine: float, its: float, drawn: F8, defrauded: int, level: float, margin: float
) -> Standing:
    """The bound is the lower one of two: the percentile, and Student's with the bootstrap's deviation.

    With few entities that have frauds the percentiles alone are too narrow; those are what the deviation comes from.
    """
    from scipy.stats import t as student

    difference, freedom = mine - its, max(1, defrauded - 1)
    low, high = (float(q) for q in np.quantile(drawn, [level, 1 - level]))
    deviation = float(drawn.std(ddof=1)) * (1 + 1 / freedom) ** 0.5
    spread = float(student.ppf(1 - level, freedom)) * deviation
    lower, upper = min(low, difference - spread), max(high, difference + spread)
    return Standing(version, metric, mine, its, difference, lower, upper, lower > margin)


def _drawn(statistics: list[Statistic], number: Any, entities: int, each: F8, replicates: int, rng: Any) -> list[F8]:
    """The statistics of every replicate.

    Weights are exponential (Rubin 1981, The Bayesian Bootstrap): nobody is left out whole, so no replicate is without
    fraud.
    """
    out: list[list[F8]] = [[] for _ in statistics]
    most = max(1, AT_ONCE // len(number))
    for start in range(0, replicates, most):
        size = min(most, replicates - start)
        weights = rng.exponential(size=(size, entities))[:, number] * each
        for found, statistic in zip(out, statistics, strict=True):
            found.append(statistic(weights))
    return [np.concatenate(found) for found in out]


def _statistic(entrant: Entrant, fraud: F8, metric: str, money: Money | None) -> Statistic:
    if metric == COST:
        if money is None:
            raise ValueError("a race by cost needs the costs")
        return saved(entrant.action, fraud, money)
    return Curve(fraud, entrant.score).ap


def saved(action: Any, fraud: F8, money: Money) -> Statistic:
    """Minus the mean cost of an event, so that more is better."""
    cost = np.where(action == APPROVE, fraud * money.lost, money.review)
    cost = np.where(action == DECLINE, (fraud == 0) * money.wrong_decline, cost)

    def weighed(weights: Weights) -> F8:
        out: F8 = -(weights * cost).sum(axis=1) / weights.sum(axis=1)
        return out

    return weighed
