"""What stops a canary, what does not, and how often it happens by chance when somebody looks all the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from batch.guard import PAIRS, chance, fewest_entities, look
from batch.pipeline_promotion import RaceFile, RampFile, check_promotion
from riskflow.errors import DeclarationError

LIMITS = RampFile()
ACTIONS = np.array(["approve", "review", "decline"])


def pairs(canary: Any, champion: Any, entity: Any, every_ms: int = 10_000) -> pl.DataFrame:
    """Actions as numbers: 0 approve, 1 review, 2 decline."""
    said = [[f"c{e}" for e in entity], np.arange(len(canary)) * every_ms, ACTIONS[canary], ACTIONS[champion]]
    return pl.DataFrame(dict(zip(PAIRS, said, strict=True)), schema=PAIRS)


def failed(found: pl.DataFrame, limits: RampFile = LIMITS) -> list[str]:
    return [check.name for check in look(found, limits).failed]


def town(rng: Any, customers: int, events: int) -> tuple[Any, Any]:
    """Whose each event is, and how risky it looks: most customers never do, some on most of their events."""
    entity = rng.integers(0, customers, events)
    risk = rng.beta(0.1, 4.9, customers)[entity]
    return entity, risk


# ---- what stops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("canary", "champion", "guard"), [(1, 0, "alerts"), (0, 1, "alerts"), (2, 1, "declines"), (1, 2, "declines")]
)
def test_one_that_decides_otherwise_on_every_event_is_stopped_either_way(
    canary: int, champion: int, guard: str
) -> None:
    both = np.full(200, canary), np.full(200, champion), np.arange(200) % 50
    assert guard in failed(pairs(*both))


def test_one_that_declines_everything_is_stopped_as_soon_as_a_few_customers_came() -> None:
    rng = np.random.default_rng(0)
    entity, risk = town(rng, 500, 500)
    champion = 2 * (rng.random(500) < risk)
    seen = next(n for n in range(500) if "declines" in failed(pairs(np.full(n, 2), champion[:n], entity[:n])))
    assert seen < 30


def test_one_that_declines_twice_as_much_is_stopped() -> None:
    """3 % of the events of 2,000 customers, and 6 %."""
    caught = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        entity, draw = rng.integers(0, 2_000, 6_000), rng.random(6_000)
        caught += "declines" in failed(pairs(2 * (draw < 0.06), 2 * (draw < 0.03), entity))
    assert caught >= 38


def test_a_difference_that_does_not_matter_stops_nobody_however_certain_it_is() -> None:
    """A champion that never declined, and a canary that declines the certain ones: 0.4 % of all events."""
    declines = 2 * (np.arange(20_000) % 250 == 0)
    found = pairs(declines, np.zeros(20_000, int), np.arange(20_000))
    assert failed(found) == []
    assert look(found, LIMITS).checks[1].p_value < 1e-9
    assert "declines" in failed(found, RampFile(floor=0.001))


def test_a_fifth_more_stops_nobody() -> None:
    draw = np.random.default_rng(0).random(50_000)
    assert failed(pairs(1 * (draw < 0.24), 1 * (draw < 0.2), np.arange(50_000))) == []


def test_one_customer_stops_nobody_however_many_events_he_has() -> None:
    assert failed(pairs(np.full(900, 2), np.zeros(900, int), np.zeros(900, int))) == []


@pytest.mark.parametrize(("stricter", "laxer"), [(60, 10), (10, 60)])
def test_one_customer_makes_no_harm_of_a_difference_that_is_certain_and_small(stricter: int, laxer: int) -> None:
    """Of 4,000 customers a few are declined by one of the two alone; and one with 600 events, all by the canary."""
    canary, champion, entity = np.zeros(20_000, int), np.zeros(20_000, int), np.arange(20_000) % 4_000
    canary[:200] = champion[:200] = 2
    canary[1_000 : 1_000 + stricter] = champion[2_000 : 2_000 + laxer] = 2
    canary, champion = np.append(canary, np.full(600, 2)), np.append(champion, np.zeros(600, int))
    found = look(pairs(canary, champion, np.append(entity, np.full(600, 9_999))), LIMITS)
    assert found.checks[1].p_value < 1e-6
    assert found.checks[1].canary > 3 * found.checks[1].champion
    assert found.failed == []
    of_thirty = pairs(canary, champion, np.append(entity, 9_000 + np.arange(600) % 30))
    assert bool(failed(of_thirty)) == (stricter > laxer), "the same events, of thirty customers"


def test_of_a_customer_the_first_event_counts_on_which_the_two_disagree() -> None:
    """Of three customers: agreed, then stricter, then laxer and laxer again."""
    canary, champion = np.repeat([0, 2, 0, 0], 3), np.repeat([0, 0, 2, 2], 3)
    alerts, declines = look(pairs(canary, champion, [0, 1, 2] * 4), LIMITS).checks
    assert (alerts.stricter, alerts.laxer) == (declines.stricter, declines.laxer) == (3, 0)
    assert (declines.canary, declines.champion) == (0.25, 0.5)


# ---- chance ----------------------------------------------------------------------------------------------------------


def stops(rng: Any, limits: RampFile, alike: bool) -> bool:
    """Whether one of many looks at a canary that is no different stops it: 60 customers, eight events of each."""
    entity, risk = town(rng, 60, 480)
    moods = [rng.normal(0, 0.3 if alike else 1.5, 60)[entity] for _ in range(2)]  # of both, about each customer
    canary, champion = (2 * (rng.random(480) < risk * np.exp(mood)) for mood in moods)
    return any(failed(pairs(canary[:n], champion[:n], entity[:n]), limits) for n in range(40, 481, 40))


@pytest.mark.learns
@pytest.mark.parametrize("alike", [True, False])
def test_one_that_is_no_different_is_stopped_with_a_chance_of_at_most_alpha_however_often_somebody_looks(
    alike: bool,
) -> None:
    """Twelve looks at each of 120 ramps of one share. Without floor and limit, so that the statistic stands alone."""
    limits = RampFile(shares=[1.0], alpha=0.2, floor=0.0, alert_ratio=1.0, decline_ratio=1.0)
    rng = np.random.default_rng(1)
    stopped = sum(stops(rng, limits, alike) for _ in range(120))
    assert stopped / 120 <= 0.2


def test_the_bound_holds_for_a_fair_coin_that_is_looked_at_after_each_throw() -> None:
    rng, level = np.random.default_rng(2), 0.05
    heads = np.cumsum(rng.random((2_000, 400)) < 0.5, axis=1)
    n = np.arange(1, 401)
    unlikely = {(k, m) for m in n.tolist() for k in range(m + 1) if chance(k, m - k) <= level}
    stopped = sum(any((int(k), int(m)) in unlikely for k, m in zip(row, n, strict=True)) for row in heads)
    assert 0.005 < stopped / 2_000 <= level


@pytest.mark.parametrize(
    ("stricter", "laxer", "p"), [(0, 0, 1.0), (1, 0, 1.0), (3, 0, 0.5), (0, 4, 5 / 16), (2, 2, 1.0)]
)
def test_the_chance_is_that_of_the_bet(stricter: int, laxer: int, p: float) -> None:
    assert chance(stricter, laxer) == pytest.approx(p)
    assert chance(5_000, 0) == 0.0


# ---- enough ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "entities", "every_ms", "waits"),
    [
        (0, 1, 10_000, "0 of 500 events"),
        (499, 100, 10_000, "499 of 500 events"),
        (500, 16, 10_000, "16 entities, of fewer than 17"),
        (500, 17, 1_000, "span 499 s, 1h are wanted"),
        (500, 17, 10_000, ""),
    ],
)
def test_a_share_has_shown_enough_with_events_entities_and_time(
    events: int, entities: int, every_ms: int, waits: str
) -> None:
    same = np.zeros(events, int)
    found = look(pairs(same, same, np.arange(events) % entities, every_ms), LIMITS)
    assert waits in found.waits
    assert bool(found.waits) == bool(waits)


def test_with_the_fewest_entities_the_worst_canary_is_stopped_and_with_one_fewer_it_is_not() -> None:
    n = fewest_entities(LIMITS)
    assert failed(pairs(np.full(n, 2), np.zeros(n, int), np.arange(n))) == ["alerts", "declines"]
    assert failed(pairs(np.full(n - 1, 2), np.zeros(n - 1, int), np.arange(n - 1))) == []


@pytest.mark.parametrize(
    ("race", "ramp", "what"),
    [
        (RaceFile(horizon="soon"), RampFile(), "race.horizon"),
        (RaceFile(), RampFile(hold="x"), "ramp.hold"),
        (RaceFile(), RampFile(poll="often"), "ramp.poll"),
        (RaceFile(), RampFile(shares=[0.1, 0.1]), "do not rise"),
        (RaceFile(), RampFile(shares=[]), "do not rise"),
    ],
)
def test_a_wrong_section_is_named(race: RaceFile, ramp: RampFile, what: str) -> None:
    with pytest.raises(DeclarationError, match=what):
        check_promotion(race, ramp, lambda place: f"pipeline.yaml, {place}")
