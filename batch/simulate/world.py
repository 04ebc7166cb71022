"""A world from a seed: people, genuine payments, planted fraud, labels.

Every id names its world, so that two worlds on the same topics never speak of the same event, customer or terminal:
otherwise labels of the one would be joined to events of the other.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import astuple, dataclass

import numpy as np
import polars as pl

from batch.simulate import fraud, genuine, people
from batch.simulate.labels import Delays, labels
from batch.simulate.units import DAY_MS, Span
from riskflow.errors import DeclarationError

PARTS = ("people", "genuine", "stolen_card", "compromised_terminal", "card_testing", "labels")


@dataclass(frozen=True)
class World:
    """Payments of `start_ms` up to `end_ms`; the tables are described in `batch.simulate`."""

    events: pl.DataFrame
    labels: pl.DataFrame
    truth: pl.DataFrame
    start_ms: int
    end_ms: int

    def until(self, day: float) -> World:
        """What is known after so many days: `live` from that moment on brings the rest."""
        end_ms = self.start_ms + int(day * DAY_MS)
        events = self.events.filter(pl.col("occurred_at_ms") < end_ms)
        known = self.labels.filter(pl.col("labelled_at_ms") < end_ms)
        return World(events, known, self.truth.head(len(events)), self.start_ms, end_ms)


def simulate(
    seed: int,
    start_ms: int,
    days: int = 90,
    customers: int = 2_000,
    terminals: int = 1_000,
    *,
    per_day: float = 2.0,
    shares: fraud.Shares | None = None,
    delays: Delays | None = None,
) -> World:
    """A world of `days` days from `start_ms` (UTC epoch ms).

    `per_day` is the mean number of payments of a customer on a day. Labels that come after the end are kept.
    Same arguments, same world, same ids; another argument, other ids (`delays` alone are no part of them: the events
    stay what they are). Raises DeclarationError for a world without people, shops or time.
    """
    _check(days, customers, terminals, per_day)
    span = Span(start_ms, start_ms + days * DAY_MS)
    rng = _generators(seed)
    shops, cards = people.build(rng["people"], customers, terminals, span, len(genuine.RHYTHMS), per_day)
    shares = shares or fraud.Shares()
    payments = _payments(rng, cards, shops, span, shares)
    world = _tag(seed, *span, customers, terminals, float(per_day), *map(float, astuple(shares)))
    events, truth = _named(payments, world, customers, terminals)
    known = labels(rng["labels"], events, truth["is_fraud"].to_numpy(), delays or Delays())
    return World(events, known, truth, *span)


def _check(days: int, customers: int, terminals: int, per_day: float) -> None:
    least = {"days": (days, 1), "customers": (customers, 1), "terminals": (terminals, 2), "per_day": (per_day, 1e-6)}
    for name, (value, smallest) in least.items():
        if not value >= smallest:
            raise DeclarationError(f"simulate({name}={value})", "too small for a world", f"Use {smallest} or more")


def _generators(seed: int) -> dict[str, np.random.Generator]:
    """One generator for each part, so that more fraud does not change what honest people do."""
    return {
        part: np.random.default_rng(s) for part, s in zip(PARTS, np.random.SeedSequence(seed).spawn(6), strict=True)
    }


def _payments(rng, cards: people.Customers, shops: people.Shops, span: Span, shares: fraud.Shares) -> pl.DataFrame:
    """Genuine and fraudulent payments in order of time, with a column `scenario` (place in SCENARIOS)."""
    honest = genuine.payments(rng["genuine"], cards, shops, span)
    n = len(honest)
    stolen, blocked = fraud.stolen_cards(rng["stolen_card"], cards, shops, span, n * shares.stolen_card)
    clones = fraud.compromised_terminals(
        rng["compromised_terminal"], shops, honest, span, n * shares.compromised_terminal
    )
    tests = fraud.card_testing(rng["card_testing"], cards, shops, span, n * shares.card_testing)
    parts = fraud.without_blocked(honest, blocked, span), stolen, clones, tests
    marked = [part.with_columns(scenario=pl.lit(which, pl.Int8)) for which, part in enumerate(parts)]
    return span.keep(pl.concat(marked)).sort("at_ms", maintain_order=True)


def _tag(*made_from: float) -> str:
    """Six letters and digits for everything that events follow from."""
    digest = hashlib.sha256(repr(made_from).encode()).digest()
    return base64.b32encode(digest)[:6].decode().lower()


def _named(payments: pl.DataFrame, world: str, customers: int, terminals: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events as producers send them, and the truth beside them."""
    event_id = _ids(f"t-{world}", np.arange(1, len(payments) + 1), len(payments))
    events = pl.DataFrame(
        {
            "event_id": event_id,
            "occurred_at_ms": payments["at_ms"],
            "customer_id": _ids(f"c-{world}", np.arange(customers), customers).gather(payments["customer"]),
            "terminal_id": _ids(f"s-{world}", np.arange(terminals), terminals).gather(payments["shop"]),
            "amount": payments["amount"],
            "channel": pl.Series(genuine.CHANNELS).gather(payments["channel"]),
        }
    )
    scenario = pl.Series(fraud.SCENARIOS).gather(payments["scenario"])
    truth = {"event_id": event_id, "is_fraud": payments["scenario"] > 0, "scenario": scenario}
    return events, pl.DataFrame(truth)


def _ids(begin: str, numbers: np.ndarray, largest: int) -> pl.Series:
    """`t-k3f9qa-000001`: as wide as the largest needs, so that they sort as they count."""
    digits = pl.Series(numbers).cast(pl.String).str.zfill(max(6, len(str(largest))))
    return f"{begin}-" + digits
