"""Planted fraud, one function for each scenario.

    stolen_card             larger amounts at shops the customer never uses, within hours, until the card is blocked
    compromised_terminal    for one to four weeks its cards are cloned and used there again, at ordinary amounts
    card_testing            many cards, tiny amounts, one online shop, minutes; then one large payment with one of them

How much of each is planted is stated as a share of the genuine payments, so that the rate holds at any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from batch.simulate.genuine import CHIP, CONTACTLESS, MOST, ONLINE, TAP_LIMIT, amounts, table
from batch.simulate.people import Customers, Shops
from batch.simulate.units import DAY_MS, HOUR_MS, MINUTE_MS, Span, spread_out

SCENARIOS = ("genuine", "stolen_card", "compromised_terminal", "card_testing")

STOLEN_MEAN = 7  # payments until the card is blocked
TESTING_CARDS = (15, 46)  # cards in one burst, from and up to


@dataclass(frozen=True)
class Shares:
    """Frauds of each scenario, as a share of the genuine payments."""

    stolen_card: float = 0.003
    compromised_terminal: float = 0.004
    card_testing: float = 0.0025


def stolen_cards(rng, people: Customers, shops: Shops, span: Span, quota: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The thieves' payments, and the spans in which the owner cannot pay: customer, from_ms, to_ms."""
    size = 3 + rng.poisson(STOLEN_MEAN - 3, round(quota / STOLEN_MEAN))
    who = rng.integers(0, len(people), len(size))
    begin_ms = span.moments(rng, len(size))
    theft, place = spread_out(size)
    at_ms = begin_ms[theft] + _since_first(rng.lognormal(np.log(35 * MINUTE_MS), 0.9, len(theft)), theft, place)
    shop = _thief_shops(rng, shops, len(size), theft)
    usual = people.level[who[theft]] * np.sqrt(np.maximum(shops.price[shop], 1.0))
    amount = amounts(rng, usual * rng.uniform(2.0, 7.0, len(theft)), 0.35)
    blocked = {
        "customer": who,
        "from_ms": begin_ms,
        "to_ms": _last(at_ms, size) + rng.integers(1, 4, len(size)) * DAY_MS,
    }
    return table(at_ms, who[theft], shop, amount, _thief_channels(rng, shops, shop, amount)), pl.DataFrame(blocked)


def _since_first(gap_ms: np.ndarray, group: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Gaps added up inside each group, the first member at 0."""
    total = np.cumsum(gap_ms)
    return (total - total[place == 0][group]).astype(np.int64) if len(gap_ms) else np.zeros(0, np.int64)


def _last(values: np.ndarray, size: np.ndarray) -> np.ndarray:
    return values[np.cumsum(size) - 1]


def _thief_shops(rng, shops: Shops, thefts: int, theft: np.ndarray) -> np.ndarray:
    """Shops around one place that has nothing to do with the owner, and online shops."""
    n, place = len(theft), rng.choice(shops.physical, thefts)
    around = shops.near[place[theft], rng.integers(0, shops.near.shape[1], n)]
    return np.where(rng.random(n) < 0.3, rng.choice(shops.web, n), around)


def _thief_channels(rng, shops: Shops, shop: np.ndarray, amount: np.ndarray) -> np.ndarray:
    taps = (amount < TAP_LIMIT) & (rng.random(len(shop)) < 0.6)
    return np.where(shops.online[shop], ONLINE, np.where(taps, CONTACTLESS, CHIP))


def without_blocked(payments: pl.DataFrame, blocked: pl.DataFrame, span: Span) -> pl.DataFrame:
    """The owners' payments, less those while the card was stolen or blocked."""
    if blocked.is_empty():
        return payments
    blocked = blocked.sort("customer", "from_ms")
    line = span.length_ms + 1  # lays all customers end to end, so that one search finds the theft before a payment
    starts = blocked["customer"].to_numpy() * line + blocked["from_ms"].to_numpy() - span.start_ms
    customer, at_ms = payments["customer"].to_numpy().astype(np.int64), payments["at_ms"].to_numpy()
    theft = np.searchsorted(starts, customer * line + at_ms - span.start_ms, side="right") - 1
    hit = (theft >= 0) & (blocked["customer"].to_numpy()[theft] == customer)
    return payments.filter(~(hit & (at_ms < blocked["to_ms"].to_numpy()[theft])))


def compromised_terminals(rng, shops: Shops, payments: pl.DataFrame, span: Span, quota: float) -> pl.DataFrame:
    """Clones of cards used at bad terminals: each follows a genuine payment there by 1 to 48 hours."""
    shop, at_ms = payments["shop"].to_numpy(), payments["at_ms"].to_numpy()
    from_ms = span.moments(rng, len(shops))
    to_ms = from_ms + rng.integers(7 * DAY_MS, 28 * DAY_MS, len(shops))
    share = rng.uniform(0.2, 0.7, len(shops)) * ~shops.online
    cloned = (at_ms >= from_ms[shop]) & (at_ms < to_ms[shop]) & (rng.random(len(shop)) < share[shop])
    bad = _until_quota(rng, np.bincount(shop[cloned], minlength=len(shops)), quota)
    clones = payments.filter(cloned & bad[shop])
    amount = amounts(rng, clones["amount"].to_numpy(), 0.3)
    return clones.with_columns(
        at_ms=pl.col("at_ms") + rng.integers(HOUR_MS, 48 * HOUR_MS, len(clones)),
        amount=amount,
        channel=np.where(amount < TAP_LIMIT, clones["channel"].to_numpy(), CHIP).astype(np.int8),
    )


def _until_quota(rng: np.random.Generator, frauds: np.ndarray, quota: float) -> np.ndarray:
    """Which terminals are bad: drawn one after the other while their frauds fit into the quota."""
    order = rng.permutation(len(frauds))
    bad = np.zeros(len(frauds), bool)
    bad[order] = (np.cumsum(frauds[order]) <= quota) & (frauds[order] > 0)
    return bad


def card_testing(rng, people: Customers, shops: Shops, span: Span, quota: float) -> pl.DataFrame:
    """Bursts of tiny payments at one online shop, each followed by one large payment within six hours."""
    bursts = round(quota / (sum(TESTING_CARDS) / 2 + 0.5))
    size = np.minimum(rng.integers(*TESTING_CARDS, bursts), len(people))
    shop, begin_ms = rng.choice(shops.web, bursts), span.moments(rng, bursts)
    cards = [rng.choice(len(people), n, replace=False) for n in size]
    burst, _ = spread_out(size)
    tiny_ms = begin_ms[burst] + rng.integers(0, 12 * MINUTE_MS, len(burst))
    tiny = np.round(rng.uniform(0.1, 2.0, len(burst)), 2)
    who = np.concatenate([*cards, np.zeros(0, np.int64)])
    large_ms = begin_ms + rng.integers(15 * MINUTE_MS, 6 * HOUR_MS, bursts)
    large = np.minimum(amounts(rng, np.full(bursts, 450.0), 0.5), MOST)
    lucky = np.array([mine[0] for mine in cards], np.int64)
    rows = (tiny_ms, large_ms), (who, lucky), (shop[burst], rng.choice(shops.web, bursts)), (tiny, large)
    at_ms, customer, where, amount = map(np.concatenate, rows)
    return table(at_ms, customer, where, amount, np.full(len(at_ms), ONLINE))
