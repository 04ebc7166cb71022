"""When a race is judged, on which events, and that it is judged once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from batch import horse_race
from batch.horse_race import ACTION, AT, ENTITY, EVENT, FRAUD, LOST, SCORE, Field
from batch.pipeline_promotion import RaceFile
from batch.training_set import WEIGHT
from riskflow.policy import DAY_MS, DECLINE

RULES = RaceFile(horizon="2d", fewest_frauds=10, replicates=200)
START = 1_000 * DAY_MS


def field(days: float, frauds_a_day: int = 20, mature_days: float | None = None) -> Field:
    """A champion that guesses and a challenger that knows, on 200 events a day."""
    rng = np.random.default_rng(0)
    n = int(200 * days)
    at_ms = START + np.sort(rng.integers(0, int(days * DAY_MS), n))
    fraud = (np.arange(n) % (200 // frauds_a_day) == 0).astype(float)
    table = {
        EVENT: [f"e{i}" for i in range(n)], AT: at_ms, ENTITY: rng.integers(0, 150, n), FRAUD: fraud,
        LOST: np.full(n, 10.0), WEIGHT: np.ones(n),
        SCORE.format(1): rng.random(n), ACTION.format(1): np.zeros(n, np.int8),
        SCORE.format(2): fraud * 0.5 + rng.random(n) * 0.3, ACTION.format(2): np.zeros(n, np.int8),
    }  # fmt: skip
    mature = START + int((days if mature_days is None else mature_days) * DAY_MS)
    return Field(pl.DataFrame(table), 1, (2,), START, mature, pl.DataFrame(table).clear())


def test_nobody_looks_before_the_horizon_is_mature() -> None:
    assert "1.0 of 2.0 days" in field(1.0).waits(RULES)
    assert field(2.5).waits(RULES) == ""


def test_nobody_looks_before_there_are_enough_frauds() -> None:
    rules = RaceFile(horizon="2d", fewest_frauds=70, replicates=200)
    assert "50 of 70 frauds" in field(2.5).waits(rules)
    assert field(4.0).waits(rules) == ""


def test_without_events_it_waits() -> None:
    empty = field(2.5)
    assert "no mature event" in replace(empty, table=empty.table.clear()).waits(RULES)


def test_who_declines_too_much_for_a_race_to_end_is_named() -> None:
    made = field(2.5)
    declines = made.table.with_columns(pl.lit(DECLINE, pl.Int8).alias(ACTION.format(2)))
    none_left = replace(made, table=made.table.clear(), declines=declines).waits(RULES)
    assert none_left.startswith("of each of 500 mature events one of those who race declines it")
    assert none_left.endswith("version 1 declines 0.0%, version 2 declines 100.0%")
    few_left = replace(made, table=made.table[:50], declines=declines[50:]).waits(RULES)
    assert few_left.startswith("5 of 10 frauds are known among events that none of them declines (version 1 declines")
    assert few_left.endswith("version 2 declines 90.0%)")


def test_only_the_horizon_is_judged_however_late_somebody_asks() -> None:
    at_once, late = field(2.5), field(9.0)
    assert at_once.until(RULES).table[AT].max() < START + 2 * DAY_MS
    assert late.end_ms(RULES) == at_once.end_ms(RULES) == START + 2 * DAY_MS


def test_it_is_longer_until_enough_frauds_are_in_it() -> None:
    rules = RaceFile(horizon="2d", fewest_frauds=70, replicates=200)
    judged = field(9.0).until(rules)
    assert judged.table[FRAUD].sum() == 70
    assert judged.table[AT].max() > START + 2 * DAY_MS


def test_the_better_one_wins() -> None:
    result = field(2.5).until(RULES).judged(RULES, None)
    assert result.winner == 2
    assert result.standings[0].lower > 0


@pytest.mark.parametrize("missing", ["champion", "challenger", "as a challenger"])
def test_events_that_one_of_them_did_not_score_do_not_race(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same events as `shadow` brings them: another champion decided, or a challenger was not there, or as a
    shadow."""
    second = "shadow" if missing == "as a challenger" else "challenger:two"
    said = pl.DataFrame(
        {
            "event_id": ["a", "a", "b", "c" if missing == "challenger" else "b"],
            "occurred_at": [START] * 4,
            "alias": ["challenger", "challenger:two", "challenger", second],
            "bundle": [2, 3, 2, 3],
            "score": [0.1, 0.2, 0.3, 0.4],
            "action": ["approve", "review", "decline", "approve"],
            "decided_bundle": [1, 1, 9 if missing == "champion" else 1, 9 if missing == "champion" else 1],
            "decided_score": [0.5] * 4,
            "decided_action": ["approve"] * 4,
        }
    )
    monkeypatch.setattr(horse_race, "read_shadow_scores", lambda *_, **__: said)

    class Conf:
        lake_folder = None

    class AnyRun:
        plan = names = None
        conf = Conf()

    table = horse_race._side_by_side(AnyRun(), 1, [2, 3])  # type: ignore[arg-type]
    assert table[EVENT].to_list() == ["a"]
    assert table[SCORE.format(3)].to_list() == [0.2]
    assert table[ACTION.format(3)].to_list() == [1]
