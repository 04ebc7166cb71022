"""The horse race: whether a challenger is better than the champion, on events whose truth is known by now.

All that race have scored the same events. The difference of a metric between challenger and champion is drawn again by
a paired bootstrap over entities (batch/resampling.py). A challenger is better when the lower bound of its difference is
above the margin; the bound leaves alpha / (number of challengers) below it (Bonferroni), so the chance that any one is
promoted which is no better is at most alpha. That holds for one look at a horizon that was fixed before, so a race is
judged once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.resampling import Curve, Groups, Paired, Statistic, compare
from batch.weights import weights
from riskflow.columns import F8, I8
from riskflow.policy import APPROVE, DECLINE

AVERAGE_PRECISION, COST = "average_precision", "cost"


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
    groups = Groups.of(entity, fraud)
    its, *others = (_statistic(e, fraud, groups, metric, money, weight) for e in (champion, *challengers))
    found = zip(challengers, compare(its, others, groups, replicates, seed), strict=True)
    standings = [_standing(e.version, metric, pair, alpha / len(challengers), margin) for e, pair in found]
    best = max((s for s in standings if s.wins), key=lambda s: (s.difference, -s.version), default=None)
    return Result(
        best.version if best else None, champion.version, len(fraud), int(fraud.sum()), groups.size, alpha, standings
    )


def _standing(version: int, metric: str, pair: Paired, level: float, margin: float) -> Standing:
    lower, upper = pair.bounds(level)
    return Standing(version, metric, pair.mine, pair.its, pair.mine - pair.its, lower, upper, lower > margin)


def _statistic(
    entrant: Entrant, fraud: F8, groups: Groups, metric: str, money: Money | None, weight: F8 | None
) -> Statistic:
    if metric == COST:
        if money is None:
            raise ValueError("a race by cost needs the costs")
        return saved(entrant.action, fraud, money, groups, weight)
    return Curve(fraud, entrant.score, groups.number, weight).ap


def saved(action: Any, fraud: F8, money: Money, groups: Groups, weight: F8 | None = None) -> Statistic:
    """Minus the mean cost of an event, so that more is better."""
    cost = np.where(action == APPROVE, fraud * money.lost, money.review)
    cost = np.where(action == DECLINE, (fraud == 0) * money.wrong_decline, cost)
    each = weights(weight, len(fraud))
    costs, events = (np.bincount(groups.number, of, groups.size) for of in (each * cost, each))

    def weighed(drawn: F8) -> F8:
        out: F8 = -(drawn * costs).sum(axis=1) / (drawn * events).sum(axis=1)
        return out

    return weighed
