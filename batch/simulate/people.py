"""Who pays and where: shops, customers, and the shops a customer goes to.

Both live around the same few towns on a square of 100 x 100 km. A customer's shops are near home, so cards of
one neighbourhood meet at the same terminals, again and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from batch.simulate.units import DAY_MS, HOUR_MS, Span

SIDE_KM, TOWN_KM = 100.0, 3.0
NEAR, FAVOURITES, WEB_FAVOURITES = 24, 8, 3


class Kind(NamedTuple):
    """A kind of shop: its share of all shops, price against a customer's usual amount, how often it is visited."""

    name: str
    share: float
    price: float
    visits: float
    online: bool = False


KINDS = (
    Kind("grocery", 0.22, 0.9, 6.0),
    Kind("cafe", 0.20, 0.3, 3.0),
    Kind("fuel", 0.08, 1.5, 2.0),
    Kind("restaurant", 0.14, 1.2, 1.5),
    Kind("fashion", 0.12, 1.8, 0.7),
    Kind("electronics", 0.05, 3.5, 0.3),
    Kind("travel", 0.04, 5.0, 0.2),
    Kind("web_shop", 0.10, 1.4, 1.0, online=True),
    Kind("digital", 0.05, 0.25, 1.5, online=True),
)
GROCERY, WEB_SHOP = 0, 7


@dataclass(frozen=True)
class Shops:
    """Arrays of one row for each terminal."""

    xy: np.ndarray  # (T, 2) km
    price: np.ndarray  # (T,) times a customer's usual amount
    visits: np.ndarray  # (T,) relative
    online: np.ndarray  # (T,) bool
    near: np.ndarray  # (T, K) physical shops close to it, nearest first

    def __len__(self) -> int:
        return len(self.price)

    @property
    def physical(self) -> np.ndarray:
        return np.flatnonzero(~self.online)

    @property
    def web(self) -> np.ndarray:
        return np.flatnonzero(self.online)

    def any_web(self, rng: np.random.Generator, size: int | tuple[int, int]) -> np.ndarray:
        """Online shops, the much visited ones more often."""
        weight = self.visits[self.web]
        return rng.choice(self.web, size, p=weight / weight.sum()).astype(np.int32)


@dataclass(frozen=True)
class Customers:
    """Arrays of one row for each customer."""

    level: np.ndarray  # usual amount, in the base currency
    spread: np.ndarray  # sigma of the logarithm of amounts
    per_day: np.ndarray  # payments a day
    rhythm: np.ndarray  # which profile of hours and weekdays
    shift_ms: np.ndarray  # how much later than the profile
    online_share: np.ndarray
    tap_share: np.ndarray  # contactless, where the amount allows it
    near: np.ndarray  # (C, K) physical shops close to home
    favourites: np.ndarray  # (C, F) of them, most visited first
    web: np.ndarray  # (C, W) online shops, most visited first
    joined_ms: np.ndarray  # no payments before
    trip_from_ms: np.ndarray
    trip_to_ms: np.ndarray  # equal to trip_from_ms: stays at home
    trip_shop: np.ndarray  # a shop at the destination

    def __len__(self) -> int:
        return len(self.level)


def build(rng: np.random.Generator, customers: int, terminals: int, span: Span, rhythms: int, per_day: float):
    """The shops and customers of one world: (Shops, Customers)."""
    towns = rng.uniform(0, SIDE_KM, (max(1, round(terminals**0.5 / 4)), 2))
    shops = _shops(rng, towns, terminals)
    return shops, _customers(rng, towns, shops, customers, span, rhythms, per_day)


def _shops(rng: np.random.Generator, towns: np.ndarray, n: int) -> Shops:
    kind = rng.choice(len(KINDS), n, p=[k.share for k in KINDS])
    kind[:2] = GROCERY, WEB_SHOP  # the smallest world has one of each
    xy = _around(rng, towns, n)
    online = np.array([k.online for k in KINDS])[kind]
    return Shops(
        xy=xy,
        price=np.array([k.price for k in KINDS])[kind] * rng.lognormal(0, 0.25, n),
        visits=np.array([k.visits for k in KINDS])[kind] * rng.lognormal(0, 0.7, n),
        online=online,
        near=_nearest(xy, xy, np.flatnonzero(~online)),
    )


def _customers(rng, towns, shops: Shops, n: int, span: Span, rhythms: int, per_day: float) -> Customers:
    near = _nearest(_around(rng, towns, n), shops.xy, shops.physical)
    away, days = _trips(rng, n, span)
    return Customers(
        level=rng.lognormal(np.log(24), 0.5, n),
        spread=rng.uniform(0.35, 0.75, n),
        per_day=rng.gamma(2.0, per_day / 2.0, n),
        rhythm=rng.integers(0, rhythms, n),
        shift_ms=(rng.normal(0, 1.0, n) * HOUR_MS).astype(np.int64),
        online_share=rng.beta(2, 7, n),
        tap_share=rng.beta(4, 2, n),
        near=near,
        favourites=_favourites(rng, near, shops.visits),
        web=shops.any_web(rng, (n, WEB_FAVOURITES)),
        joined_ms=np.where(rng.random(n) < 0.88, span.start_ms, span.moments(rng, n)),
        trip_from_ms=away,
        trip_to_ms=away + days,
        trip_shop=rng.choice(shops.physical, n),
    )


def _around(rng: np.random.Generator, towns: np.ndarray, n: int) -> np.ndarray:
    """`n` places around the towns, the first towns being the larger ones."""
    size = 1 / np.arange(1, len(towns) + 1)
    return towns[rng.choice(len(towns), n, p=size / size.sum())] + rng.normal(0, TOWN_KM, (n, 2))


def _nearest(places: np.ndarray, shops_xy: np.ndarray, physical: np.ndarray) -> np.ndarray:
    """For each place the physical shops close to it, nearest first: (places, K)."""
    order = np.arange(1, min(NEAR, len(physical)) + 1)
    return physical[cKDTree(shops_xy[physical]).query(places, k=order)[1]].astype(np.int32)


def _favourites(rng: np.random.Generator, near: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """A few of the near shops, drawn by how much they are visited, without repetition (Gumbel's trick)."""
    rank = np.argsort(-(np.log(visits[near]) + rng.gumbel(size=near.shape)), axis=1)
    return np.take_along_axis(near, rank[:, :FAVOURITES], axis=1)


def _trips(rng: np.random.Generator, n: int, span: Span) -> tuple[np.ndarray, np.ndarray]:
    """Half of the customers travel once: start and length, in ms."""
    length = rng.integers(2, 12, n) * DAY_MS * (rng.random(n) < 0.5)
    return span.moments(rng, n), length
