"""What honest customers do: when they pay, where, how much and how."""

from __future__ import annotations

import numpy as np
import polars as pl

from batch.simulate.people import FAVOURITES, WEB_FAVOURITES, Customers, Shops
from batch.simulate.units import DAY_MS, HOUR_MS, MINUTE_MS, Span, spread_out

CHANNELS = ("chip", "contactless", "online")
CHIP, CONTACTLESS, ONLINE = range(3)
TAP_LIMIT = 50.0  # above it a card asks for the PIN
LEAST, MOST = 0.5, 9_999.0
EXPLORE = 0.12  # share of payments that do not go to a favourite
BURST = 0.12  # share of outings with more than one payment
BURST_MEAN = 1 + BURST * 2  # payments for each outing, with 1 to 3 more in a burst

_HOURS = np.arange(24)


def _bump(at: float, width: float, height: float = 1.0) -> np.ndarray:
    """A hill over the hours of a day that goes on past midnight."""
    away = np.minimum(abs(_HOURS - at), 24 - abs(_HOURS - at))
    return height * np.exp(-0.5 * (away / width) ** 2)


# (7, 24) relative payments for each hour, Monday first: early risers, office, families, night owls
RHYTHMS = np.stack(
    [
        np.outer([1.0, 1.0, 1.0, 1.0, 1.1, 1.3, 0.6], _bump(8, 2) + _bump(12, 2, 0.6) + 0.01),
        np.outer([1.1, 1.1, 1.1, 1.1, 1.3, 0.7, 0.4], _bump(8, 1, 0.7) + _bump(12.5, 1.2) + _bump(18, 1.5) + 0.01),
        np.outer([0.8, 0.8, 0.8, 0.9, 1.2, 1.8, 0.9], _bump(10, 2.5) + _bump(16, 2.5) + 0.01),
        np.outer([0.7, 0.7, 0.8, 1.0, 1.7, 1.8, 0.9], _bump(14, 3, 0.5) + _bump(22, 2.5) + 0.02),
    ]
)


def payments(rng: np.random.Generator, people: Customers, shops: Shops, span: Span) -> pl.DataFrame:
    """All genuine payments of a span, in any order: at_ms, customer, shop, amount, channel."""
    customer, at_ms = _moments(rng, people, span)
    inside = (at_ms >= np.maximum(people.joined_ms[customer], span.start_ms)) & (at_ms < span.end_ms)
    customer, at_ms = customer[inside], at_ms[inside]
    shop = _places(rng, people, shops, customer, at_ms)
    amount = amounts(rng, people.level[customer] * shops.price[shop], people.spread[customer])
    return table(at_ms, customer, shop, amount, channels(rng, people, shops, customer, shop, amount))


def table(at_ms, customer, shop, amount, channel) -> pl.DataFrame:
    """Payments as one table of numbers; names come at the end."""
    columns = {"at_ms": at_ms, "customer": customer, "shop": shop, "amount": amount, "channel": channel}
    types = {"at_ms": pl.Int64, "customer": pl.Int32, "shop": pl.Int32, "amount": pl.Float64, "channel": pl.Int8}
    return pl.DataFrame({name: np.asarray(values) for name, values in columns.items()}).cast(types)


def amounts(rng: np.random.Generator, usual: np.ndarray, spread: np.ndarray | float) -> np.ndarray:
    """Log-normal around the usual amount, in cents."""
    return np.round(np.clip(usual * np.exp(spread * rng.standard_normal(len(usual))), LEAST, MOST), 2)


def channels(rng, people: Customers, shops: Shops, customer, shop, amount) -> np.ndarray:
    """Online at online shops; elsewhere contactless where customer and amount allow it, else chip."""
    taps = (amount < TAP_LIMIT) & (rng.random(len(customer)) < people.tap_share[customer])
    return np.where(shops.online[shop], ONLINE, np.where(taps, CONTACTLESS, CHIP)).astype(np.int8)


def _moments(rng: np.random.Generator, people: Customers, span: Span) -> tuple[np.ndarray, np.ndarray]:
    """Customer and time of each payment. People go out; some outings are a burst of payments within minutes."""
    outings = rng.poisson(people.per_day * (span.length_ms / DAY_MS) / BURST_MEAN)
    customer = np.repeat(np.arange(len(people), dtype=np.int32), outings)
    at_ms = _outings(rng, people.rhythm[customer], span) + people.shift_ms[customer]
    more = (rng.random(len(customer)) < BURST) * rng.integers(1, 4, len(customer))
    outing, place = spread_out(1 + more)
    return customer[outing], at_ms[outing] + place * rng.integers(2 * MINUTE_MS, 15 * MINUTE_MS, len(outing))


def _outings(rng: np.random.Generator, rhythm: np.ndarray, span: Span) -> np.ndarray:
    """A time for each outing, drawn from the hours of the whole span as its rhythm weighs them."""
    first_hour, end_hour = span.start_ms // HOUR_MS, -(-span.end_ms // HOUR_MS)
    hours = np.arange(first_hour, end_hour)
    weekday = (hours // 24 + 3) % 7  # 1970-01-01 was a Thursday
    drawn = np.empty(len(rhythm), np.int64)
    for which, weights in enumerate(RHYTHMS):
        mine = np.flatnonzero(rhythm == which)
        reach = np.cumsum(weights[weekday, hours % 24])
        drawn[mine] = np.searchsorted(reach, rng.random(len(mine)) * reach[-1], side="right")
    return (first_hour + drawn) * HOUR_MS + rng.integers(0, HOUR_MS, len(rhythm))


def _places(rng, people: Customers, shops: Shops, customer: np.ndarray, at_ms: np.ndarray) -> np.ndarray:
    """The shop of each payment: favourites mostly, sometimes another one, on a trip those over there."""
    n = len(customer)
    favourites = people.favourites[customer, _ranks(rng, n, min(FAVOURITES, people.favourites.shape[1]))]
    others = people.near[customer, rng.integers(0, people.near.shape[1], n)]
    there = shops.near[people.trip_shop[customer], rng.integers(0, shops.near.shape[1], n)]
    web = np.where(rng.random(n) < EXPLORE, shops.any_web(rng, n), people.web[customer, _ranks(rng, n, WEB_FAVOURITES)])
    explores = rng.random(n) < EXPLORE
    travels = (at_ms >= people.trip_from_ms[customer]) & (at_ms < people.trip_to_ms[customer])
    online = rng.random(n) < people.online_share[customer]
    return np.where(online, web, np.where(travels, there, np.where(explores, others, favourites)))


def _ranks(rng: np.random.Generator, n: int, choices: int) -> np.ndarray:
    """Places in a list of favourites: the second is visited half as often as the first, and so on (Zipf)."""
    reach = np.cumsum(1 / np.arange(1, choices + 1))
    return np.searchsorted(reach, rng.random(n) * reach[-1], side="right")
