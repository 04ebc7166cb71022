"""Checks of the data: what stops a run, with the number that was found and the range that is accepted."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from batch import checks, retrain
from batch.archived import CheckFailed
from batch.gates import Gate
from batch.pipeline_checks import Checks, FieldCheck, Range
from batch.run import Run
from batch.simulate import World, simulate
from batch.training_set import TrainingSet
from riskflow.columns import take
from riskflow.evaluate import KIND, TIME
from tests.unit.lake_cases import DAY, SHARES, START, Streamed, run_in, streamed, write_rows
from tests.unit.training_cases import rows, small_plan

PLAN, DATA = small_plan(), rows()


def with_fields(**columns: Any) -> TrainingSet:
    return TrainingSet({**DATA.columns, **columns}, DATA.fraud)


def named(results: list[Gate], name: str) -> Gate:
    return next(r for r in results if r.name == name)


def last(data: TrainingSet, **changed: Any) -> dict[str, Any]:
    """What data.json says of a set."""
    about = {"rows": len(data), "from_ms": int(data.at_ms[0]), "to_ms": int(data.at_ms[-1]), "run": "before"}
    return json.loads(json.dumps({**about, "profile": checks.profiles(PLAN, data), **changed}))


@pytest.mark.parametrize(
    ("wanted", "name", "sentence"),
    [
        (Checks(rows=Range(5000)), "rows", "rows: found 4000, wanted at least 5000"),
        (Checks(rows=Range(None, 3000)), "rows", "rows: found 4000, wanted at most 3000"),
        (Checks(frauds=Range(1000)), "frauds", "wanted at least 1000"),
        (Checks(label_rate=Range(0.2, 0.3)), "label_rate", "wanted 0.2 to 0.3"),
    ],
)
def test_amounts(wanted: Checks, name: str, sentence: str) -> None:
    found = named(checks.check_amount(DATA, wanted), name)
    assert not found.passed
    assert sentence in found.sentence()
    assert all(r.passed for r in checks.check_amount(DATA, Checks()))


def test_fields_that_are_missing_or_out_of_range() -> None:
    amount = np.array(DATA.columns["amount"])
    amount[:400] = np.nan
    amount[400:480] = -5
    data = with_fields(amount=amount)
    assert all(r.passed for r in checks.check_fields(PLAN, data, Checks()))
    wanted = Checks(fields={"amount": FieldCheck(least=0, outside=0.01, missing=0.05)})
    found = checks.check_fields(PLAN, data, wanted)
    assert named(found, "missing amount").sentence() == "missing amount: found 0.1, wanted at most 0.05"
    outside = named(found, "range amount")
    assert not outside.passed
    assert outside.found.startswith(f"{80 / 3600:.4f} outside, values -5 to")
    loose = Checks(fields={"amount": FieldCheck(least=0, outside=0.03)})
    assert named(checks.check_fields(PLAN, data, loose), "range amount").passed


def test_a_field_that_means_something_else_now_is_seen_beside_the_last_set() -> None:
    same = checks.check_against_last(PLAN, rows(seed=5), Checks(), last(DATA))
    assert all(r.passed for r in same)
    assert named(same, "drift amount").found < 0.02
    cents = checks.check_against_last(PLAN, with_fields(amount=DATA.columns["amount"] * 100), Checks(), last(DATA))
    assert not named(cents, "drift amount").passed
    assert named(cents, "drift amount").wanted == "PSI at most 2"
    gone = with_fields(channel=np.full(len(DATA), -1, np.int32))
    assert not named(checks.check_against_last(PLAN, gone, Checks(), last(DATA)), "drift channel").passed
    strict = Checks(fields={"amount": FieldCheck(drift=1e-9)})
    assert not named(checks.check_against_last(PLAN, rows(seed=5), strict, last(DATA)), "drift amount").passed


def test_volume_is_events_a_day_beside_the_last_set() -> None:
    found = checks.check_against_last(PLAN, DATA, Checks(), last(DATA, rows=20 * len(DATA)))
    assert not named(found, "volume").passed
    assert named(found, "volume").found == pytest.approx(0.05, abs=1e-3)
    first = checks.check_against_last(PLAN, DATA, Checks(), None)
    assert [(r.name, r.passed, r.found) for r in first] == [
        ("volume", True, checks.FIRST), ("drift", True, checks.FIRST),
    ]  # fmt: skip


def test_a_field_that_is_gone_or_suddenly_there_has_drifted_though_its_values_have_not() -> None:
    amount = np.where(np.random.default_rng(0).random(len(DATA)) < 0.95, DATA.columns["amount"], np.nan)
    known, rare = with_fields(amount=amount), with_fields(amount=np.where(np.arange(len(DATA)) % 20, np.nan, amount))
    never = with_fields(amount=np.full(len(DATA), np.nan))
    for then, now in ((known, rare), (known, never), (never, known)):
        found = named(checks.check_against_last(PLAN, now, Checks(), last(then)), "drift amount")
        assert not found.passed
    assert named(checks.check_against_last(PLAN, rare, Checks(), last(known)), "drift amount").evidence["values"] < 0.1
    assert named(checks.check_against_last(PLAN, never, Checks(), last(never)), "drift amount").passed


def test_rows_that_stand_for_many_are_looked_at_as_so_many() -> None:
    """Large amounts are sampled ten times as often, and every row weighs one over its odds."""
    odds = np.where(np.asarray(DATA.columns["amount"]) > 60, 1.0, 0.1)
    drawn = DATA.standing_for((np.random.default_rng(0).random(len(DATA)) < odds) / odds)
    assert drawn.rate == pytest.approx(DATA.rate, abs=0.02)
    found = checks.check_against_last(PLAN, drawn, Checks(), last(DATA, events=DATA.events))
    assert named(found, "volume").found == pytest.approx(1, abs=0.1)
    assert named(found, "drift amount").found < 0.05
    unweighted = TrainingSet(drawn.columns, drawn.fraud)
    assert named(checks.check_against_last(PLAN, unweighted, Checks(), last(DATA)), "drift amount").found > 0.5
    cheap = np.where(np.asarray(drawn.columns["amount"]) > 60, np.nan, drawn.columns["amount"])
    whole = np.where(np.asarray(DATA.columns["amount"]) > 60, np.nan, DATA.columns["amount"])
    assert checks.missing_share(cheap, drawn.weight) == pytest.approx(checks.missing_share(whole), abs=0.02)


def test_texts_have_no_shape() -> None:
    assert set(checks.profiles(PLAN, DATA)) == {"amount", "channel"}


# ---- the step --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lake_of(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    return streamed(tmp_path_factory.mktemp("home"))


def checked(run: Run, **wanted: Any) -> Run:
    found = msgspec.structs.replace(run.pipeline.file.checks, **wanted)
    return replace(run, pipeline=replace(run.pipeline, file=msgspec.structs.replace(run.pipeline.file, checks=found)))


def test_every_result_is_written_and_a_failed_one_stops_the_run(lake_of: Streamed) -> None:
    run = lake_of.run()
    assert {"reused_ids": 0, "early_labels": 0}.items() <= retrain.check(run).items()
    results = json.loads((run.folder / checks.RESULTS).read_text())
    assert results["passed"]
    wanted = {
        "rows",
        "frauds",
        "label_rate",
        "schema",
        "missing amount",
        "volume",
        "reused_ids",
        "early_labels",
        "unheard",
    }
    assert wanted <= {c["name"] for c in results["checks"]}
    with pytest.raises(
        CheckFailed, match=r"not fit to learn from\. range amount: found .* outside, values .*, wanted at most 0"
    ):
        retrain.check(checked(run, fields={"amount": FieldCheck(most=1.0)}))
    results = json.loads((run.folder / checks.RESULTS).read_text())
    assert [c["name"] for c in results["checks"] if not c["passed"]] == ["range amount"]


# ---- whose label is whose --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbered_alike() -> list[World]:
    """Two worlds, half a year apart, from systems that both number from one."""
    worlds = [simulate(seed, START + at * DAY, 40, 60, 30, shares=SHARES) for seed, at in ((1, 0), (2, 180))]
    return [replace(w, events=_numbered(w.events), labels=_numbered(w.labels)) for w in worlds]


def _numbered(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col("event_id", "customer_id", "terminal_id").str.slice(-6))


def learned_from(home: Path, events: pl.DataFrame, labels: pl.DataFrame, **wanted: Any) -> list[dict[str, Any]]:
    run = checked(run_in(home), **wanted)
    try:
        retrain.frame_from_tables(run, {"events": events, "labels": labels})
    finally:
        found = json.loads((run.folder / checks.RESULTS).read_text())["checks"]
    return found


def test_labels_of_an_earlier_world_with_the_same_ids_stop_the_run(numbered_alike: list[World], tmp_path: Path) -> None:
    before, now = numbered_alike
    labels = pl.concat([before.labels, now.labels])
    told = r"early_labels: found 0\.\d+ \(\d+ of \d+ labels are older than their event, such as \d+\), wanted at most"
    with pytest.raises(CheckFailed, match=told):
        learned_from(tmp_path, now.events, labels)
    reused, early = learned_from(tmp_path, now.events, labels, early_labels=Range(most=0.9))
    assert reused["evidence"]["count"] == 0
    assert early["evidence"]["count"] > early["evidence"]["of"] // 3
    reused, early = learned_from(tmp_path, now.events, now.labels)
    assert (reused["found"], early["found"]) == ("0.000000", "0.000000")


def test_ids_that_stand_for_two_events_stop_the_run(numbered_alike: list[World], tmp_path: Path) -> None:
    before, now = numbered_alike
    events = pl.concat([before.events.tail(200).with_columns(occurred_at_ms=now.start_ms), now.events])
    told = r"learn from\. reused_ids: found 0\.\d+ \(\d+ of \d+ event ids stand for two events, such as \d+\), wanted"
    with pytest.raises(CheckFailed, match=told):
        learned_from(tmp_path, events, now.labels, early_labels=Range(most=1.0))


def test_an_event_that_came_twice_as_it_was_is_one_event(numbered_alike: list[World], tmp_path: Path) -> None:
    now = numbered_alike[1]
    without_channel = now.events.sample(500, seed=0).with_columns(channel=pl.lit(None, pl.String))
    reused, _ = learned_from(tmp_path, pl.concat([now.events, without_channel]), now.labels)
    assert reused["evidence"]["count"] == 0


def test_the_newest_published_set_is_the_last_one(lake_of: Streamed) -> None:
    run = lake_of.run()
    assert retrain.last_set(run) is None
    before = replace(run, name="before")
    retrain.replay_frame(before)
    assert retrain.last_set(run) is None, "it was not published"
    (before.folder / retrain.PUBLISHED).write_text("{}")
    found = retrain.last_set(run)
    assert found is not None
    assert found["run"] == "before"
    retrain.check(run)
    results = {c["name"]: c for c in json.loads((run.folder / checks.RESULTS).read_text())["checks"]}
    assert results["drift amount"]["found"] < 0.05
    assert results["volume"]["evidence"]["last_run"] == "before"
    (before.folder / retrain.PUBLISHED).unlink()


def test_rows_that_lack_a_declared_field_are_named(lake_of: Streamed, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    (source,) = (lake_of.home / "lake" / run.names.rows).glob("date=*/*.parquet")
    path = tmp_path / "lake" / run.names.rows / "date=2026-02-01" / source.name
    path.parent.mkdir(parents=True)
    table = pl.read_parquet(source)
    assert checks.check_schema(run.plan, run.names, lake_of.home / "lake").passed
    table.drop("channel").with_columns(pl.col("amount").cast(pl.String)).write_parquet(path)
    with pytest.raises(CheckFailed, match=r"schema: found amount is String, declared as number; channel is not there"):
        retrain.check(run)


@pytest.mark.parametrize(("day", "stops"), [(22, True), (32, False)])
def test_where_labels_have_stopped_silence_is_not_learned_as_genuine(
    lake_of: Streamed, tmp_path: Path, day: int, stops: bool
) -> None:
    """Forty days, of which the last seven are not mature."""
    all_, run = lake_of.rows, run_in(tmp_path)
    there = (np.asarray(all_[KIND]) == 0) | (np.asarray(all_[TIME]) < START + day * DAY)
    write_rows(tmp_path / "lake", run.names, take(all_, np.flatnonzero(there)), run.plan.entities)
    refused = pytest.raises(CheckFailed, match=r"unheard: found \d+\.\d+, wanted at most 10 since the newest label")
    with refused if stops else contextlib.nullcontext():
        retrain.check(run)


def test_a_field_that_events_may_lack_may_be_missing_in_a_partition_that_is_idle(
    lake_of: Streamed, tmp_path: Path
) -> None:
    run = run_in(tmp_path)
    (source,) = (lake_of.home / "lake" / run.names.rows).glob("date=*/*.parquet")
    folder, table = tmp_path / "lake" / run.names.rows / "date=2026-02-01", pl.read_parquet(source)
    folder.mkdir(parents=True)
    table.drop("channel").write_parquet(folder / "part-0-0-9.parquet")
    table.write_parquet(folder / "part-1-0-9.parquet")
    assert checks.check_schema(run.plan, run.names, tmp_path / "lake").passed
    table.drop("channel", "amount").write_parquet(folder / "part-0-0-9.parquet")
    found = checks.check_schema(run.plan, run.names, tmp_path / "lake")
    assert (found.passed, found.found) == (False, "amount is not there"), "events must have an amount"
