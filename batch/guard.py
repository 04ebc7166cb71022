"""What a canary must show before more events come to it: on the same events it decides about as the champion would.

A guard stops a canary when its share of alerts, or of declines, is further from the champion's than the limits allow,
and chance does not explain it. A customer's events are alike, so a customer is one draw: what counts is the first event
on which the two disagree, and which of them is the stricter one there. For a canary that is no different that is a fair
coin. The bet that it is another one (any other, all equally likely) multiplies its stake by

    2^n / ((n + 1) * (n choose k))          n customers, with k of whom the canary was stricter

which passes 1 / level with a chance of at most `level`, however often and whenever somebody looks, and however many
events a customer has. So a guard may look all the time, and need not wait with what is plain.

Sources: Ville 1939, Étude critique de la notion de collectif (the bound); Robbins 1970, Statistical Methods Related to
the Law of the Iterated Logarithm (the mixture of bets).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp, lgamma, log
from typing import Any

import polars as pl

from batch.pipeline_promotion import RampFile
from riskflow.durations import duration_ms

ENTITY, AT, CANARY, CHAMPION = "entity", "occurred_at", "canary", "champion"  # of pairs; the last two are actions
PAIRS = {ENTITY: pl.String, AT: pl.Int64, CANARY: pl.String, CHAMPION: pl.String}
GUARDS = 2  # alerts and declines


@dataclass(frozen=True)
class Check:
    """One guard: both shares, the limit, of how many entities the canary was first stricter or laxer, the chance."""

    name: str
    canary: float
    champion: float
    limit: float
    stricter: int
    laxer: int
    p_value: float
    passed: bool

    def sentence(self) -> str:
        return (
            f"{self.name}: {self.canary:.4f} of its events, the champion's would have been {self.champion:.4f} (limit "
            f"{self.limit:g} times; stricter first with {self.stricter}, laxer with {self.laxer}; p {self.p_value:.2g})"
        )


@dataclass(frozen=True)
class Look:
    """What was seen of a canary at its present share. `waits`: what for, before it can be believed; empty: enough."""

    events: int
    entities: int
    span_ms: int  # of event time
    checks: list[Check]
    waits: str

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look(pairs: pl.DataFrame, limits: RampFile) -> Look:
    """pairs: what both say of each event that the canary has decided, in the order of the decisions; see PAIRS."""
    events, entities = len(pairs), pairs[ENTITY].n_unique()
    span_ms = int(pairs[AT].max() - pairs[AT].min()) if events else 0  # type: ignore[operator]
    return Look(events, entities, span_ms, checks(pairs, limits), _waits(events, entities, span_ms, limits))


def checks(pairs: pl.DataFrame, limits: RampFile) -> list[Check]:
    """Every guard of a step."""
    alerts = _check("alerts", pairs, limits.alert_ratio, limits, lambda action: action != "approve")
    declines = _check("declines", pairs, limits.decline_ratio, limits, lambda action: action == "decline")
    return [alerts, declines]


def fewest_entities(limits: RampFile) -> int:
    """With fewer a guard could stop nobody, whatever the canary does."""
    n = 1
    while chance(n, 0) > _level(limits):
        n += 1
    return n


def chance(stricter: int, laxer: int) -> float:
    """At most so likely is it that a fair coin ever comes to say this, or something less likely."""
    n = stricter + laxer
    choices = lgamma(n + 1) - lgamma(stricter + 1) - lgamma(laxer + 1)
    return min(1.0, exp(min(0.0, log(n + 1) + choices - n * log(2))))


def _waits(events: int, entities: int, span_ms: int, limits: RampFile) -> str:
    if events < limits.fewest_events:
        return f"{events} of {limits.fewest_events} events were decided by the canary"
    if entities < fewest_entities(limits):
        return f"its events are of {entities} entities, of fewer than {fewest_entities(limits)} nothing is certain"
    if span_ms < duration_ms(limits.hold):
        return f"its events span {span_ms / 1000:.0f} s, {limits.hold} are wanted"
    return ""


def _check(name: str, pairs: pl.DataFrame, limit: float, limits: RampFile, is_one: Any) -> Check:
    """Either way round: a canary that raises no alerts any more is as wrong as one that raises too many."""
    both = pairs.select(ENTITY, mine=is_one(pl.col(CANARY)), its=is_one(pl.col(CHAMPION)))
    mine, its = (float(both[side].mean() or 0.0) for side in ("mine", "its"))  # type: ignore[arg-type]
    first = both.filter(pl.col("mine") != pl.col("its")).unique(ENTITY, keep="first", maintain_order=True)
    stricter = int(first["mine"].sum())
    laxer = len(first) - stricter
    p = chance(stricter, laxer)
    matters = all(_matters(part, limit, limits.floor) for part in (both, _but_one(both)))
    return Check(name, mine, its, limit, stricter, laxer, p, not (matters and p <= _level(limits)))


def _matters(both: pl.DataFrame, limit: float, floor: float) -> bool:
    """Whether the two shares of these events are further from each other than anybody minds."""
    if not len(both):
        return False
    mine, its = (float(both[side].mean()) for side in ("mine", "its"))  # type: ignore[arg-type]
    return max(mine, its) > limit * min(mine, its) and abs(mine - its) > floor


def _but_one(both: pl.DataFrame) -> pl.DataFrame:
    """Without the customer on whom the two differ most: one with many events is one all the same."""
    gap = (pl.col("mine").cast(pl.Int64).sum() - pl.col("its").cast(pl.Int64).sum()).abs()
    furthest = both.group_by(ENTITY).agg(gap=gap).sort("gap", ENTITY, descending=True)[ENTITY][:1]
    return both.filter(~pl.col(ENTITY).is_in(furthest.implode()))


def _level(limits: RampFile) -> float:
    """All guards of all steps share alpha: it is the chance of a whole ramp."""
    return limits.alpha / (GUARDS * len(limits.shares))
