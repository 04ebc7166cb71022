"""What nobody can know of declined events: a challenger that is blind to them gains nothing by it.

A sign of fraud that the champion knows and declines on; the challenger does not know it. Nobody hears of a declined
event again, so all labels speak of the others. Both are equally good at the rest.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
import pytest

from batch import drift, lake
from batch.archived import collected
from batch.backtest import About, Backtest
from batch.findings import decayed
from batch.history import history_columns
from batch.horse_race import ACTION as ACTED
from batch.horse_race import LET, Field, field_of
from batch.judge import of_passed
from batch.let_through import FEWEST
from batch.metrics import at_threshold, ranking
from batch.past import ACTION, SCORE, archived_rows, past
from batch.pipeline_promotion import RaceFile
from batch.pipeline_watch import Watch
from batch.race import Result
from batch.run import Run
from batch.shadow_scores import COLUMNS
from batch.tally import tally
from batch.training_set import WEIGHT, TrainingSet
from batch.truth import terms_of
from riskflow.columns import Text, n_rows
from riskflow.evaluate import KIND, TIME
from riskflow.policy import ACTIONS, DECLINE, LET_THROUGH, uniform
from tests.unit.lake_cases import DAY, START, ids, run_in, write_rows

CHAMPION, BLIND = 1, 2
EVENTS, CUSTOMERS, DAYS = 16_000, 4_000, 30
RACES = 12
HIGH = 0.5
RULES = RaceFile(horizon="10d", fewest_frauds=20, replicates=300)


class World(NamedTuple):
    run: Run
    at_ms: Any
    fraud: Any  # what nobody can know of all of them

    def frauds(self, from_ms: int, to_ms: int) -> int:
        return int(self.fraud[(self.at_ms >= from_ms) & (self.at_ms < to_ms)].sum())


def world(home: Path, seed: int, let_through: float = 0.0, alike: bool = False) -> World:
    """A lake of events that the champion has decided and the challenger has scored.

    alike: neither knows the sign; both see the same risk with an error of their own, and decline from HIGH on.
    """
    rng = np.random.default_rng(seed)
    names = [f"e{i}" for i in range(EVENTS)]
    sign = rng.random(EVENTS) < 0.02
    fraud = rng.random(EVENTS) < np.where(sign, 0.95, 0.015)
    rest = 0.5 * fraud * rng.random(EVENTS) + 0.4 * rng.random(EVENTS)
    champion, blind = (rest + 0.05 * rng.random(EVENTS) for _ in (CHAMPION, BLIND))
    champion = np.where(sign, 0.97, champion)
    if alike:
        champion, blind = (0.5 * fraud + 0.2 * rng.normal(size=EVENTS) for _ in (CHAMPION, BLIND))
    high, its_high = (champion >= HIGH, blind >= HIGH) if alike else (sign, np.zeros(EVENTS, np.bool_))
    let = high & (uniform(Text.of_strings(names), 5) < let_through)
    declined = high & ~let
    at_ms = START + np.sort(rng.integers(0, DAYS * DAY, EVENTS))
    tables = {
        "events": pl.DataFrame({
            "event_id": names, "occurred_at_ms": at_ms, "amount": 10.0, "channel": "online", "terminal_id": "t",
            "customer_id": [f"c{c}" for c in rng.integers(0, CUSTOMERS, EVENTS)],
        }),
        "labels": _labels(names, at_ms, fraud & ~declined),
    }  # fmt: skip
    run = run_in(home)
    rows = history_columns(run.plan, tables)
    place = {name: i for i, name in enumerate(names)}
    event = np.array([place.get(str(name), -1) for name in ids(rows)])
    action, score = np.full(n_rows(rows), -1, np.int8), np.full(n_rows(rows), np.nan)
    mine = np.asarray(rows[KIND]) == 0
    action[mine], score[mine] = np.where(declined, DECLINE, 0)[event[mine]], champion[event[mine]]
    live: Any = {"_score": score, "_action": action, "_bundle": np.full(n_rows(rows), CHAMPION)}
    write_rows(run.conf.lake_folder, run.names, {**rows, **live}, run.plan.entities)
    reasons = [json.dumps([f"{LET_THROUGH}{let_through}"] if one else []) for one in let]
    scored = {"event_id": names, "occurred_at": at_ms, "bundle": CHAMPION, "score": champion, "reasons": reasons}
    _write(run, run.names.scores, {**scored, "action": [ACTIONS[DECLINE if d else 0] for d in declined]})
    opinions = {
        "event_id": names, "occurred_at": at_ms, "alias": "challenger", "bundle": BLIND, "score": blind, "band": "low",
        "decided_bundle": CHAMPION, "decided_score": champion, **{
            name: [ACTIONS[DECLINE if one else 0] for one in those]
            for name, those in {"action": its_high, "decided_action": declined}.items()
        },
    }  # fmt: skip
    assert set(opinions) == set(COLUMNS)
    _write(run, run.names.shadow, opinions)
    return World(run, at_ms, fraud)


def _labels(names: list[str], at_ms: Any, known: Any) -> pl.DataFrame:
    chosen = np.flatnonzero(known)
    about = {"event_id": [names[i] for i in chosen], "label_id": [f"l{i}" for i in chosen], "is_fraud": True}
    entities = {"customer_id": "c0", "terminal_id": "t"}
    return pl.DataFrame({**about, **entities, "labelled_at_ms": at_ms[chosen] + DAY})


def _write(run: Run, topic: str, columns: dict[str, Any]) -> None:
    place = {lake.EPOCH: 1, lake.OFFSET: np.arange(EVENTS), lake.PARTITION: 0}
    path = run.conf.lake_folder / topic / "date=2026-02-01" / lake.part_name(0, 0, EVENTS - 1)
    path.parent.mkdir(parents=True)
    pl.DataFrame({**columns, **place}).write_parquet(path)


def raced(run: Run) -> tuple[Field, Result]:
    field = field_of(run, CHAMPION, [BLIND])
    assert field.waits(RULES) == ""
    return field, field.until(RULES).judged(RULES, None)


def test_a_blind_challenger_does_not_win_by_what_the_champion_declines(tmp_path: Path) -> None:
    won = sum(raced(world(tmp_path / str(seed), seed).run)[1].winner == BLIND for seed in range(RACES))
    assert won <= 2, "an equal one wins in at most one of twenty races"


def test_of_two_that_are_alike_none_wins_because_what_the_champion_caught_is_out_of_sight(tmp_path: Path) -> None:
    """What is left is where the champion scored low: a challenger with another error looks better there by itself."""
    found = [raced(world(tmp_path / str(seed), seed, alike=True).run) for seed in range(RACES)]
    assert sum(result.winner == BLIND for _, result in found) <= 2, "an equal one wins in at most one of twenty races"
    for field, _ in found:
        actions = field.table.select(ACTED.format(CHAMPION), ACTED.format(BLIND))
        assert (actions == DECLINE).sum().sum_horizontal()[0] == 0
        alone = field.declined_alone()[str(BLIND)]
        assert 0 < alone["frauds"] <= alone["events"] == len(field.declines)


def test_those_that_were_let_through_keep_what_they_decline_in_the_race(tmp_path: Path) -> None:
    """Then the truth is known of what the champion declines, too, and nothing has to leave."""
    field, _ = raced(world(tmp_path, 0, let_through=0.5, alike=True).run)
    assert (field.table[ACTED.format(BLIND)] == DECLINE).any()
    assert field.table[LET].sum() >= FEWEST
    assert len(field.declines) == 0


def test_a_few_that_were_let_through_decide_no_race(tmp_path: Path) -> None:
    """A handful of them would bear the weight of all that was declined; by chance there may be none."""
    found = [raced(world(tmp_path / str(seed), seed, let_through=0.03, alike=True).run) for seed in range(RACES)]
    assert sum(result.winner == BLIND for _, result in found) <= 2
    assert any(field.declines[LET].any() for field, _ in found)
    assert not any(field.table[LET].any() for field, _ in found)


def test_where_silence_about_declined_events_is_declared_to_mean_genuine_it_wins(tmp_path: Path) -> None:
    """What the declaration does in such a world: it is for those whose sources speak of declined events too."""
    run = world(tmp_path, 0).run
    file = msgspec.structs.replace(run.pipeline.file, declined="as_labelled")
    assert raced(replace(run, pipeline=type(run.pipeline)(file)))[1].winner == BLIND


def test_those_that_were_let_through_make_the_race_see_the_difference(tmp_path: Path) -> None:
    """Four in ten of the declined ones stand for all of them."""
    gaps, shares = [], []
    for seed in range(RACES // 2):
        field, result = raced(world(tmp_path / str(seed), seed, let_through=0.4).run)
        assert set(field.table[WEIGHT].round(6)) == {1.0, round(1 / 0.4, 6)}
        assert result.winner is None
        gaps.append(result.standings[0].difference)
        mature = (field.mature_ms - START) / (DAYS * DAY)
        shares.append(field.table[WEIGHT].sum() / (EVENTS * mature))
    assert np.mean(gaps) < -0.1, "the blind one is worse, and by a lot"
    assert np.mean(shares) == pytest.approx(1, rel=0.02), "they stand for all mature events"


def test_that_what_it_declines_is_out_of_sight_is_no_decay(tmp_path: Path) -> None:
    """A bundle that is as good as it was: without its best hits average precision is less than half of the promise."""
    rng, numbers = np.random.default_rng(0), {"review": 0.4, "decline": HIGH}
    fraud = (rng.random(EVENTS) < 0.034).astype(float)
    score = 0.5 * fraud + 0.2 * rng.normal(size=EVENTS)
    promise = {**ranking(score, fraud), **at_threshold(score, fraud, fraud, 0.4), "validation_frauds": fraud.sum()}
    passed = of_passed(TrainingSet({TIME: np.zeros(EVENTS, np.int64)}, fraud), score, numbers)
    bundle: Any = SimpleNamespace(policy=numbers, metrics={**promise, "passed": passed})
    found = measured_in(world(tmp_path, 0, alike=True).run, bundle)
    assert decayed(Watch(), promise, None, found["measured"], 1e-3, found["passed"]) == []
    assert [f.name for f in decayed(Watch(), promise, None, found["measured"], 1e-3)][-1] == "average precision"
    before = SimpleNamespace(policy=numbers, metrics=promise)  # a bundle that did not say it of what it passes
    assert measured_in(world(tmp_path / "before", 0, alike=True).run, before)["passed"] == {}
    assert measured_in(world(tmp_path / "let", 0, let_through=0.9, alike=True).run, bundle)["passed"] is None


def measured_in(run: Run, bundle: Any) -> dict[str, Any]:
    whole = archived_rows(run, run.plan.entities)
    return drift._measured(run, whole, np.flatnonzero(np.asarray(whole[KIND]) == 0), bundle)


def test_a_backtest_and_measured_quality_count_them_for_all_that_they_stand_for(tmp_path: Path) -> None:
    """The frauds that there were, the declined ones included, of which nobody has heard."""
    told, measured, true, lately = 0.0, 0.0, 0, 0
    for seed in range(RACES // 2):
        made = world(tmp_path / str(seed), seed, let_through=0.6)
        run = made.run
        until = terms_of(run, collected(run)).until_ms
        columns = past(run, [], {}, lambda _: {}).columns
        about = About(run.plan.name, CHAMPION, "", True, None, None, "", "")
        counted = Backtest(about, tally(run.plan, columns, columns[SCORE], columns[ACTION]))
        figures = counted.summary()["figures"]
        assert figures["unknown"] == (np.asarray(columns[WEIGHT]) == 0).sum() > 2000
        told, true = told + figures["frauds"], true + made.frauds(0, until)
        found = measured_in(run, SimpleNamespace(policy={"review": 0.5, "decline": 0.9}))
        newest = int(np.asarray(columns[TIME])[np.asarray(columns[WEIGHT]) > 0].max())
        measured += found["measured"]["frauds"]
        lately += made.frauds(newest - 7 * DAY + 1, newest + 1)
        assert found["measured"]["frauds_seen"] < found["measured"]["frauds"]
        assert sum(week["frauds"] for week in found["weeks"]) == pytest.approx(figures["frauds"], abs=0.01)
    assert told == pytest.approx(true, rel=0.1)
    assert measured == pytest.approx(lately, rel=0.15)
