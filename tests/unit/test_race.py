"""The horse race: equal ones are hardly ever promoted, better ones are, and the figures are those of a naive count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.race import Entrant, Money, race, saved
from batch.resampling import Groups
from riskflow.policy import APPROVE, DECLINE, REVIEW

SIMULATIONS = 200
ALPHA = 0.05


def world(seed: int, customers: int = 300, frauds: float = 0.08) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(entity, fraud, risk) of events that come in bursts: a customer's events are alike."""
    rng = np.random.default_rng(seed)
    entity = np.repeat(np.arange(customers), rng.integers(1, 12, customers))
    bad = rng.random(customers) < frauds
    fraud = (bad[entity] & (rng.random(len(entity)) < 0.7)).astype(float)
    risk = 1.5 * fraud + rng.normal(size=customers)[entity] * 0.5 + rng.normal(size=len(entity)) * 0.5
    return entity, fraud, risk


def seen(risk: np.ndarray, entity: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """A model's score: the risk, and an error that customers share in part."""
    shared = rng.normal(size=int(entity.max()) + 1)[entity]
    return np.round(1 / (1 + np.exp(-(risk + noise * shared + noise * rng.normal(size=len(risk))))), 6)


def entrants(seed: int, noises: list[float]) -> tuple[list[Entrant], np.ndarray, np.ndarray]:
    entity, fraud, risk = world(seed)
    rng = np.random.default_rng(seed + 10_000)
    scores = [seen(risk, entity, noise, rng) for noise in noises]
    return [Entrant(v, s, np.where(s > 0.8, REVIEW, APPROVE)) for v, s in enumerate(scores, 1)], fraud, entity


def test_equal_challengers_are_promoted_at_most_as_often_as_alpha_says() -> None:
    promoted = 0
    for seed in range(SIMULATIONS):
        (champion, *others), fraud, entity = entrants(seed, [0.6] * 4)
        promoted += race(champion, others, fraud, entity, alpha=ALPHA, replicates=200).winner is not None
    assert promoted <= ALPHA * SIMULATIONS, promoted


def test_a_clearly_better_one_wins_and_the_best_of_several() -> None:
    won = []
    for seed in range(20):
        (champion, *others), fraud, entity = entrants(seed, [1.5, 1.4, 0.2, 1.5])
        won.append(race(champion, others, fraud, entity, replicates=300).winner)
    assert won.count(3) >= 18
    assert set(won) <= {3, None}


def test_a_worse_one_never_wins() -> None:
    for seed in range(20):
        (champion, *others), fraud, entity = entrants(seed, [0.2, 1.5])
        assert race(champion, others, fraud, entity, replicates=200).winner is None


def test_the_margin_must_be_won_too() -> None:
    (champion, better), fraud, entity = entrants(3, [1.5, 0.2])
    found = race(champion, [better], fraud, entity, replicates=300).standings[0]
    assert found.wins
    kept = race(champion, [better], fraud, entity, replicates=300, margin=found.difference)
    assert kept.winner is None


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_what_is_saved_is_what_a_naive_count_says(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    action, fraud = rng.integers(0, 3, n), (rng.random(n) < 0.3).astype(float)
    money = Money(rng.integers(1, 500, n).astype(float), 4.0, 30.0)
    cost = 0.0
    for a, bad, lost in zip(action, fraud, money.lost, strict=True):
        if a == APPROVE:
            cost += lost if bad else 0.0
        elif a == REVIEW:
            cost += money.review
        elif a == DECLINE:
            cost += 0.0 if bad else money.wrong_decline
    groups = Groups.of(rng.integers(0, 5, n), fraud)
    assert saved(action, fraud, money, groups)(np.ones((1, groups.size)))[0] == pytest.approx(-cost / n)


def test_by_cost_the_cheaper_one_wins() -> None:
    entity, fraud, _ = world(5)
    n = len(fraud)
    money = Money(np.full(n, 100.0), 4.0, 30.0)
    nothing = Entrant(1, np.zeros(n), np.full(n, APPROVE))
    everything = Entrant(2, fraud, np.where(fraud > 0, DECLINE, APPROVE))
    assert race(nothing, [everything], fraud, entity, metric="cost", money=money, replicates=300).winner == 2
    with pytest.raises(ValueError, match="needs the costs"):
        race(nothing, [everything], fraud, entity, metric="cost")


def test_who_is_drawn_does_not_depend_on_the_order_of_rows() -> None:
    (champion, better), fraud, entity = entrants(4, [0.6, 0.5])
    order = np.random.default_rng(1).permutation(len(fraud))
    moved = [Entrant(e.version, e.score[order], e.action[order]) for e in (champion, better)]
    first = race(champion, [better], fraud, entity, replicates=200)
    second = race(moved[0], moved[1:], fraud[order], entity[order], replicates=200)
    assert first.standings[0].lower == pytest.approx(second.standings[0].lower, rel=1e-9)


def test_nobody_to_race_is_an_error() -> None:
    (champion, _), fraud, entity = entrants(4, [0.6, 0.5])
    with pytest.raises(ValueError, match="challengers and rows"):
        race(champion, [], fraud, entity)
