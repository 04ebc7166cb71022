"""What a canary must show before more events come to it: alerts, declines and degraded events as the champion has them.

A guard stops a canary when a share differs by more than the limit allows and chance does not explain it (Fisher's exact
test, two-sided; the level is shared by all guards of a step). Few events alone stop nobody: they are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from batch.lake import BROKER_MS
from batch.pipeline_promotion import RampFile

NOTHING = "[]"  # a list as the archive has it, JSON


@dataclass(frozen=True)
class Seen:
    """What was decided by one bundle: how many events, and how many of them are each of these."""

    events: int = 0
    alerts: int = 0
    declines: int = 0
    degraded: int = 0
    span_ms: int = 0  # of event time

    @classmethod
    def of(cls, scores: pl.DataFrame, version: int, since_ms: int, until_ms: int | None = None) -> Seen:
        """Of archived scores (batch.lake.read_scores) that the broker took from since_ms on."""
        if not len(scores):
            return cls()
        mine = scores.filter((pl.col("bundle") == version) & (pl.col(BROKER_MS) >= since_ms))
        if until_ms is not None:
            mine = mine.filter(pl.col(BROKER_MS) < until_ms)
        if not len(mine):
            return cls()
        at_ms = mine["occurred_at"]
        return cls(
            len(mine),
            int((mine["action"] != "approve").sum()),
            int((mine["action"] == "decline").sum()),
            int((mine["degraded"] != NOTHING).sum()),
            int(np.asarray(at_ms.max()) - np.asarray(at_ms.min())),
        )


@dataclass(frozen=True)
class Check:
    """One guard: both shares, the limit, and how likely chance makes such a difference."""

    name: str
    canary: float
    champion: float
    limit: float
    p_value: float
    passed: bool

    def sentence(self) -> str:
        return (
            f"{self.name}: {self.canary:.4f} of the canary's events, {self.champion:.4f} of the champion's "
            f"(limit {self.limit:g}, p {self.p_value:.2g})"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def checks(canary: Seen, champion: Seen, limits: RampFile) -> list[Check]:
    """Every guard of a step."""
    level = limits.alpha / 3

    def ratio(name: str, limit: float) -> Check:
        return _ratio(name, _of(canary, name), _of(champion, name), limit, limits.floor, level)

    degraded = _excess(_of(canary, "degraded"), _of(champion, "degraded"), limits.degraded, level)
    return [ratio("alerts", limits.alert_ratio), ratio("declines", limits.decline_ratio), degraded]


def _of(seen: Seen, name: str) -> tuple[int, int]:
    return getattr(seen, name), seen.events


def failed(found: Sequence[Check]) -> list[Check]:
    return [check for check in found if not check.passed]


def _ratio(
    name: str, canary: tuple[int, int], champion: tuple[int, int], limit: float, floor: float, level: float
) -> Check:
    """Either way round: a canary that raises no alerts any more is as wrong as one that raises too many."""
    mine, its = _share(canary), _share(champion)
    far = max(mine, its) > limit * min(mine, its) and abs(mine - its) > floor
    p = _chance(canary, champion)
    return Check(name, mine, its, limit, p, not (far and p < level))


def _excess(canary: tuple[int, int], champion: tuple[int, int], limit: float, level: float) -> Check:
    mine, its = _share(canary), _share(champion)
    p = _chance(canary, champion)
    return Check("degraded", mine, its, limit, p, not (mine - its > limit and p < level))


def _share(part_of: tuple[int, int]) -> float:
    part, whole = part_of
    return part / whole if whole else 0.0


def _chance(one: tuple[int, int], other: tuple[int, int]) -> float:
    from scipy.stats import fisher_exact

    (a, n), (b, m) = one, other
    return float(fisher_exact([[a, n - a], [b, m - b]]).pvalue)
