"""What stops a canary, and what does not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from batch.guard import Seen, checks, failed
from batch.pipeline_promotion import RaceFile, RampFile, check_promotion
from riskflow.errors import DeclarationError

LIMITS = RampFile()


def names(canary: Seen, champion: Seen) -> list[str]:
    return [check.name for check in failed(checks(canary, champion, LIMITS))]


def test_the_same_shares_pass() -> None:
    assert names(Seen(500, 10, 1), Seen(50_000, 1_000, 100)) == []


@pytest.mark.parametrize(
    ("canary", "guard"),
    [
        (Seen(500, 60, 1), "alerts"),
        (Seen(2_000, 0, 4), "alerts"),
        (Seen(500, 10, 10), "declines"),
        (Seen(500, 10, 1, degraded=40), "degraded"),
    ],
)
def test_what_differs_by_far_stops_it(canary: Seen, guard: str) -> None:
    assert guard in names(canary, Seen(50_000, 1_000, 100))


def test_a_difference_below_the_floor_stops_nobody() -> None:
    """A champion that never declined, and a canary that declines the certain ones."""
    assert names(Seen(50_000, 1_000, 200), Seen(50_000, 1_000, 0)) == []


def test_chance_stops_nobody() -> None:
    """Twice as many in a handful of events; and no event at all."""
    assert names(Seen(50, 3, 0), Seen(50_000, 1_000, 100)) == []
    assert names(Seen(), Seen(50_000, 1_000, 100)) == []


def test_canaries_that_are_no_different_are_hardly_ever_stopped() -> None:
    rng = np.random.default_rng(0)
    stopped = 0
    for _ in range(300):
        canary, champion = (Seen(n, int(rng.binomial(n, 0.02)), int(rng.binomial(n, 0.002))) for n in (600, 20_000))
        stopped += bool(names(canary, champion))
    assert stopped <= 1


def test_what_is_counted_of_archived_scores() -> None:
    scores = pl.DataFrame(
        {
            "bundle": [1, 2, 2, 2],
            "action": ["decline", "review", "approve", "decline"],
            "degraded": ["[]", '["x"]', "[]", "[]"],
            "occurred_at": [0, 1_000, 5_000, 9_000],
            "_broker_ms": [10, 10, 20, 30],
        }
    )
    assert Seen.of(scores, 2, 10) == Seen(3, 2, 1, 1, 8_000)
    assert Seen.of(scores, 2, 11, 30) == Seen(1, 0, 0, 0, 0)
    assert Seen.of(scores, 3, 0) == Seen()
    assert Seen.of(pl.DataFrame(), 2, 0) == Seen()


@pytest.mark.parametrize(
    ("race", "ramp", "what"),
    [
        (RaceFile(horizon="soon"), RampFile(), "race.horizon"),
        (RaceFile(), RampFile(hold="x"), "ramp.hold"),
        (RaceFile(), RampFile(shares=[0.1, 0.1]), "do not rise"),
        (RaceFile(), RampFile(shares=[]), "do not rise"),
    ],
)
def test_a_wrong_section_is_named(race: RaceFile, ramp: RampFile, what: str) -> None:
    with pytest.raises(DeclarationError, match=what):
        check_promotion(race, ramp, "pipeline.yaml")
