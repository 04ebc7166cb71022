"""Backtests: the champion repeats itself, figures are those of a plain count, parts add up, and nothing is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeredis
import numpy as np
import polars as pl
import pytest
import typer
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from batch import backtest_parts, forecasts
from batch.backtest import OF_FILE, Backtest, Costs, backtest, count, prepare
from batch.generations import FILES, Generations, Start
from batch.past import ACTION, BUNDLE, FRAUD, SCORE, TRUTH, UNKNOWN, archived_rows, past
from batch.read_only import READS, ReadOnly, Shelf, WriteRefused
from batch.replay import replay
from batch.retrain import BUNDLE as BUNDLE_FILE
from batch.tally import Tally, merge, split_by_day, tally
from batch.training_set import WEIGHT
from cli import backtest as command
from riskflow.columns import Columns, Text, n_rows, take
from riskflow.errors import BundleRefused, DeclarationError, NotReady, RiskflowError
from riskflow.evaluate import ID, KIND, TIME
from riskflow.policy import ACTIONS, DECLINE, Policy, PolicyFile, Review
from riskflow.settings import PROJECT
from riskflow.settings import settings as conf
from tests.unit.lake_cases import DAY, START, SWAP_MS, Streamed, ids, published, run_in, streamed, write_rows
from tests.unit.training_cases import small_plan

app = typer.Typer()
command.register(app)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    return streamed(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def second(archived: Streamed) -> Backtest:
    """The second bundle over everything, the first one's time included."""
    costs = Costs("amount", 5.0, 20.0)
    return backtest(archived.run(), archived.bundles[2], archived.needs, costs=costs, segments=["channel"])


# ---- the champion over its own history -------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [False, True])
def test_a_champion_repeats_every_decision_of_its_own_history(archived: Streamed, fold: bool) -> None:
    found = backtest(archived.run(), archived.bundles[2], archived.needs, from_ms=SWAP_MS, fold=fold).summary()
    assert found["events"] == found["decided_live"] == found["own"]["events"] > 1_000
    assert (found["own"]["flips"], found["flipped"], found["flips"]) == (0, 0, {})
    assert found["beside_live"]["backtest"] == found["beside_live"]["live"]


def test_its_own_part_of_a_longer_history_is_told_apart(archived: Streamed, second: Backtest) -> None:
    found = second.summary()
    mine = int((np.asarray(archived.events[BUNDLE]) == 2).sum())
    assert found["own"] == {"events": mine, "flips": 0}
    assert found["events"] == n_rows(archived.events)
    assert found["flipped"] > 50  # of what the first bundle had decided


def test_an_archive_that_was_not_what_the_bundle_saw_is_noticed(archived: Streamed) -> None:
    """If the action in the archive differs from what the same bundle gives, the report says so."""
    run, bundle = archived.run(), archived.bundles[2]
    prepared, found, about = prepare(run, bundle, archived.needs, from_ms=SWAP_MS)
    action = np.array(found.columns[ACTION])
    action[:3] = (action[:3] + 1) % 3
    counted = count(run.plan, prepared, {**found.columns, ACTION: action}, about)
    assert Backtest(about, counted).summary()["own"]["flips"] == 3


def test_files_of_a_first_start_are_worked_out_again_and_were_decided_by_nobody(
    archived: Streamed, tmp_path: Path
) -> None:
    run, rows, begun = run_in(tmp_path), archived.rows, START + 20 * DAY
    early = np.asarray(rows[TIME]) < begun
    files, later = (take(rows, np.flatnonzero(mine)) for mine in (early, ~early))
    start = Start(1, FILES, layout=run.plan.layout_fingerprint)
    Generations(run.plan, run.names, tmp_path / "lake").write(start, replay(run.plan, files).records, None, files)
    write_rows(tmp_path / "lake", run.names, later, run.plan.entities)
    whole = backtest(run, archived.bundles[2], archived.needs).summary()
    assert "generation 1 began with files of that time" in whole["features"]
    decided = int((np.asarray(later[KIND]) == 0).sum())
    assert (whole["decided_live"], whole["events"]) == (decided, n_rows(archived.events))
    assert whole["own"]["flips"] == 0 < whole["own"]["events"]
    since = backtest(run, archived.bundles[2], archived.needs, from_ms=begun).summary()
    assert (since["features"], since["events"]) == ("as archived", decided)
    assert since["flips"] == whole["flips"]


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_a_plain_count(archived: Streamed, second: Backtest) -> None:
    run = archived.run()
    events = prepare(run, archived.bundles[2], archived.needs, costs=second.about.costs)[1].columns
    score = _scores(archived, events)
    rows = list(zip(
        score.action.tolist(), np.asarray(events[TRUTH]).tolist(), np.asarray(events["amount"]).tolist(),
        np.asarray(events[ACTION]).tolist(), strict=True,
    ))  # fmt: skip
    found, figures = second.summary(), second.summary()["figures"]
    frauds = [row for row in rows if row[1] == FRAUD]
    assert (figures["frauds"], figures["caught"]) == (len(frauds), sum(action > 0 for action, *_ in frauds))
    assert figures["caught"] > 0 < figures["missed"] == figures["frauds"] - figures["caught"]
    assert figures["unknown"] == sum(truth == UNKNOWN for _, truth, *_ in rows) > 0
    days = (max(_times(events)) - min(_times(events))) / DAY
    assert figures["alerts_per_day"] == pytest.approx(sum(a > 0 for a, *_ in rows) / days)
    declined = [truth for action, truth, *_ in rows if action == 2]
    assert figures["decline"]["events"] == len(declined)
    assert figures["decline"]["precision"] == pytest.approx(
        declined.count(FRAUD) / (declined.count(FRAUD) + declined.count(0))
    )
    assert figures["cost"]["missed_fraud"] == pytest.approx(
        sum(m for a, t, m, _ in rows if t == FRAUD and a == 0), abs=1
    )
    assert figures["cost"]["review"] == 5 * sum(a == 1 and t != UNKNOWN for a, t, *_ in rows)
    assert figures["cost"]["wrong_decline"] == 20 * sum(a == 2 and t == 0 for a, t, *_ in rows)
    swaps = Counter(f"{ACTIONS[live]} -> {ACTIONS[a]}" for a, _, _, live in rows if live != a)
    assert {name: counts["events"] for name, counts in found["flips"].items()} == swaps
    assert found["flipped"] == swaps.total()
    assert sum(group["events"] for group in found["by"]["channel"].values()) == found["events"]
    assert sum(group["flipped"] for group in found["by"]["channel"].values()) == found["flipped"]
    assert set(found["by"]["channel"]) <= {"chip", "contactless", "online", "unknown"}
    assert json.loads(json.dumps(found)) == found


def test_examples_of_a_flip_are_the_largest_steps(archived: Streamed, second: Backtest) -> None:
    found = second.summary()
    live = {name: i for i, name in enumerate(ids(archived.events))}
    for name, counts in found["flips"].items():
        mine = [e for e in found["examples"] if e["flip"] == name]
        assert len(mine) == min(5, counts["events"])
        for example in mine:
            row = live[example["event_id"]]
            assert example["live_score"] == np.asarray(archived.events[SCORE])[row]
            assert example["at_ms"] == np.asarray(archived.events[TIME])[row]


def test_truth_is_what_training_takes_events_for(archived: Streamed) -> None:
    run = archived.run()
    columns = past(run, [], {}, archived.needs).columns
    newest = int(np.asarray(archived.rows[TIME]).max())
    young = np.asarray(columns[TIME]) > newest - run.pipeline.maturity_ms
    labels = take(archived.rows, np.flatnonzero(np.asarray(archived.rows[KIND]) == 1))
    said = dict(zip(ids(labels, "event_id"), np.asarray(labels["is_fraud"]).tolist(), strict=True))
    silent = np.array([e not in said for e in ids(columns)])
    unknown = young | (silent & (np.asarray(columns[ACTION]) == DECLINE))
    assert (unknown & ~young).any()
    np.testing.assert_array_equal(np.asarray(columns[TRUTH]) == UNKNOWN, unknown)
    told = np.array([bool(said.get(e)) for e in ids(columns)])
    assert np.mean(told[~unknown] == (np.asarray(columns[TRUTH])[~unknown] == FRAUD)) > 0.99


# ---- other policies and costs ----------------------------------------------------------------------------------------


def test_another_policy_is_tried_on_the_same_scores(archived: Streamed) -> None:
    policy = Policy(PolicyFile(review=Review(threshold=0.0)))
    found = backtest(archived.run(), archived.bundles[1], archived.needs, policy=policy).summary()
    assert (found["policy"], found["own"], found["review"]) == (OF_FILE, None, 0.0)
    assert found["figures"]["missed"] == 0
    assert set(found["flips"]) == {"approve -> review", "decline -> review"}


def test_wishes_are_resolved_on_the_mature_events(archived: Streamed) -> None:
    policy = Policy(PolicyFile(review=Review(alerts_per_day=3.0)))
    found = backtest(archived.run(), archived.bundles[1], archived.needs, policy=policy).summary()
    assert 0 < found["figures"]["alerts_per_day"] < 4
    with pytest.raises(Exception, match=r"of no event of the span the truth is known.*earlier --to"):
        backtest(archived.run(), archived.bundles[1], archived.needs, policy=policy, from_ms=SWAP_MS + 12 * DAY)


@pytest.mark.parametrize("words", [["--cost-wrong-decline", "5"], ["--cost-alert", "5"], ["--cost-missed", "amount"]])
def test_costs_of_the_command_line_are_whole_or_refused(words: list[str]) -> None:
    app = typer.Typer()
    command.register(app)
    done = CliRunner().invoke(app, ["backtest", "card_fraud", *words])
    assert done.exit_code == 2
    assert "--cost-missed and --cost-alert go together" in " ".join(done.stderr.replace("│", "").split())


def test_costs_are_those_that_the_policy_declares(archived: Streamed) -> None:
    declared = {"costs": {"review": 4.0, "missed_fraud": 120.0, "wrong_decline": 30.0}}
    about = archived.bundles[1].manifest
    bundle = replace(archived.bundles[1], manifest={**about, "policy": {**about["policy"], "wishes": declared}})
    figures = backtest(archived.run(), bundle, archived.needs).summary()["figures"]
    assert figures["cost"]["missed_fraud"] == 120 * figures["missed"]
    assert backtest(archived.run(), archived.bundles[1], archived.needs).summary()["figures"]["cost"] is None
    with pytest.raises(DeclarationError, match=r"'amonut'.*neither a number nor a number field"):
        backtest(archived.run(), archived.bundles[1], archived.needs, costs=Costs("amonut", 5.0))


def test_segments_are_fields_with_groups(archived: Streamed) -> None:
    for name in ("amount", "no_such_field"):
        with pytest.raises(DeclarationError, match=r"Take one of|is in no event"):
            backtest(archived.run(), archived.bundles[1], archived.needs, segments=[name])


# ---- parts -----------------------------------------------------------------------------------------------------------


def made_up(n: int, seed: int) -> tuple[Columns, Any, Any]:
    rng = np.random.default_rng(seed)
    columns: Columns = {
        ID: Text.of_strings(f"e{i}" for i in range(n)),
        TIME: rng.integers(0, 5 * DAY, n),
        SCORE: rng.integers(0, 4, n) / 4,
        ACTION: rng.integers(-1, 3, n).astype(np.int8),
        BUNDLE: rng.integers(1, 3, n),
        TRUTH: rng.integers(-1, 2, n).astype(np.int8),
        WEIGHT: rng.choice([1.0, 12.5, 1 / 0.3], n),
        "amount": rng.gamma(1.0, 50.0, n),
        "channel": rng.integers(-1, 2, n).astype(np.int32),
    }
    return columns, rng.integers(0, 4, n) / 4, rng.integers(0, 3, n).astype(np.int8)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 60), seed=st.integers(0, 99), parts=st.integers(1, 6), backwards=st.booleans())
def test_parts_add_up_to_the_whole_however_events_are_split(n: int, seed: int, parts: int, backwards: bool) -> None:
    plan = small_plan()
    columns, score, action = made_up(n, seed)
    whole = tally(plan, columns, score, action, ["channel"], "amount")
    to = np.random.default_rng(seed).integers(0, parts, n)
    counted = [
        tally(plan, take(columns, rows), score[rows], action[rows], ["channel"], "amount")
        for rows in (np.flatnonzero(to == p) for p in range(parts))
    ]
    handed_on = [Tally.from_json(json.loads(json.dumps(t.to_json()))) for t in counted]
    assert merge(handed_on[::-1] if backwards else handed_on) == whole


def test_days_add_up_to_the_backtest(archived: Streamed, second: Backtest) -> None:
    run = archived.run()
    costs, segments = second.about.costs, second.about.segments
    bundle, found, about = prepare(run, archived.bundles[2], archived.needs, costs=costs, segments=segments)
    days = split_by_day(found.columns)
    assert len(days) == 40
    assert merge(count(run.plan, bundle, day, about) for day in days.values()) == second.tally


def test_tasks_that_hand_over_files_come_to_the_same(archived: Streamed, second: Backtest) -> None:
    run, asked = archived.run(), {"costs": second.about.costs, "segments": second.about.segments}
    with pytest.raises(RiskflowError, match="no backtest is prepared"):
        backtest_parts.join(run)
    days = backtest_parts.prepare(run, archived.bundles[2], archived.needs, **asked)
    for day in days[:-1]:
        assert backtest_parts.count_day(run, day) > 0
        assert re.fullmatch(r"2026-\d\d-\d\d", day)
    with pytest.raises(RiskflowError, match=f"{days[-1]}.*not counted yet"):
        backtest_parts.join(run)
    backtest_parts.count_day(run, days[-1])
    assert backtest_parts.join(run) == second
    [kept] = forecasts.kept(run.conf.lake_folder, "card_fraud")
    assert kept["figures"] == json.loads(json.dumps(second.summary()))["figures"]


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_a_forecast_is_kept_and_held_against_what_came(archived: Streamed, second: Backtest, tmp_path: Path) -> None:
    path = forecasts.keep(second, tmp_path)
    assert path.parent == tmp_path / "_backtests" / "card_fraud"
    assert path.name.startswith("2-20260101T")
    assert path.suffix == ".json"
    later = backtest(archived.run(), archived.bundles[2], archived.needs, from_ms=SWAP_MS)
    forecasts.keep(later, tmp_path)
    forecasts.keep(later, tmp_path)
    [told, came] = forecasts.kept(tmp_path, "card_fraud", archived.bundles[2].content_hash)
    assert told == json.loads(json.dumps(second.summary()))
    assert forecasts.kept(tmp_path, "card_fraud", "another") == []
    error = forecasts.error(told, came)
    alerts = error["alerts_per_day"]
    assert alerts["error"] == came["figures"]["alerts_per_day"] - told["figures"]["alerts_per_day"]
    assert error["flipped_share"]["shown"] == 0


def test_what_another_policy_or_other_events_would_do_replaces_no_forecast(second: Backtest, tmp_path: Path) -> None:
    for change in ({}, {"policy": OF_FILE}, {"from_files": True}, {"policy": OF_FILE, "from_files": True}):
        forecasts.keep(replace(second, about=replace(second.about, **change)), tmp_path)
    kept = forecasts.kept(tmp_path, "card_fraud")
    assert sorted((f["policy"] == OF_FILE, f["from_files"]) for f in kept) == [
        (False, False), (False, True), (True, False), (True, True)
    ]  # fmt: skip


# ---- nothing is written ----------------------------------------------------------------------------------------------


@pytest.fixture
def live(archived: Streamed, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The lake's two bundles in a registry, the second one as champion."""
    yield published(archived, monkeypatch).client
    conf.cache_clear()


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def contents(client: Any) -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.scan_iter()}


def test_the_commands_change_no_key_and_know_no_kafka(
    live: Any, archived: Streamed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kafka", "aiokafka", "faust"):
        monkeypatch.setitem(sys.modules, name, None)  # an import fails now
    seen: set[str] = set()
    run_command = fakeredis.FakeRedis.execute_command

    def watched(self: Any, *words: Any, **options: Any) -> Any:
        seen.add(str(words[0]).lower())
        return run_command(self, *words, **options)

    before, files = contents(live), {p for p in archived.home.rglob("*") if "_backtests" not in str(p)}
    monkeypatch.setattr(fakeredis.FakeRedis, "execute_command", watched)
    found = invoke(
        "backtest", "card_fraud", "--segments", "channel", "--cost-missed", "amount", "--cost-alert", "5", "--json"
    )
    assert found.exit_code == 0, found
    summary = json.loads(found.stdout)
    assert (summary["bundle"], summary["own"]["flips"], summary["features"]) == (2, 0, "as archived")
    assert re.search(r"scored: ([\d,]+) of \1, \d+ s left", found.stderr), "a long command says how far it is"
    scored = invoke("score", "card_fraud", "--bundle", "1", "--out", str(tmp_path / "s.parquet"), "--json")
    assert scored.exit_code == 0, scored
    assert {"get", "hgetall"} <= seen <= READS
    assert contents(live) == before
    assert {p for p in archived.home.rglob("*") if "_backtests" not in str(p)} == files


def test_a_client_that_only_reads_refuses_everything_else() -> None:
    client = ReadOnly(fakeredis.FakeRedis())
    assert client.get("a") is None
    for name in ("set", "hset", "delete", "pipeline", "eval", "evalsha", "publish", "execute_command", "transaction"):
        with pytest.raises(WriteRefused, match="reads only"):
            getattr(client, name)


def test_modules_of_a_backtest_load_no_kafka_client() -> None:
    code = (
        "import sys, batch.backtest, batch.backtest_parts, batch.score_batch, batch.forecasts, batch.read_only;"
        "print(sorted({'kafka', 'aiokafka', 'faust', 'batch.produce', 'batch.archive'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ---- as a person uses it ---------------------------------------------------------------------------------------------


def test_the_report_reads_well(live: Any) -> None:
    found = invoke("backtest", "card_fraud", "--bundle", "1", "--segments", "channel", "--from", "2026-01-05")
    assert found.exit_code == 0, found
    assert "it had decided itself: all the same" in found.stdout
    for words in ("alerts a day", "frauds missed", "decisions flip", "approve -> review", "contactless", "kept in"):
        assert words in found.stdout


def test_a_bundle_in_a_file_is_tried_before_it_is_published(live: Any, archived: Streamed, tmp_path: Path) -> None:
    path = archived.run().folder / BUNDLE_FILE
    summary = json.loads(invoke("backtest", "card_fraud", "--bundle", str(path), "--json").stdout)
    assert (summary["published"], summary["own"]) == (False, None)
    about = {**archived.bundles[1].manifest, "needed": {"gone": "x"}}
    path = tmp_path / "bundle.bin"
    path.write_bytes(replace(archived.bundles[1], manifest=about).to_bytes())
    assert isinstance(invoke("backtest", "card_fraud", "--bundle", str(path)).exception, BundleRefused)


def test_an_entity_that_was_declared_later_is_missing_in_rows_from_before(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    found = archived_rows(run, [*run.plan.entities, "amount"])
    assert all(isinstance(found[entity], Text) for entity in run.plan.entities)


def test_a_wrong_question_says_what_to_ask(live: Any) -> None:
    assert isinstance(invoke("backtest", "card_fraud", "--bundle", "shadow").exception, NotReady)
    assert isinstance(invoke("backtest", "card_fraud", "--from", "2030-01-01").exception, NotReady)
    assert invoke("backtest", "card_fraud", "--cost-alert", "5").exit_code == 2
    assert invoke("score", "card_fraud", "--columns", "a=b").exit_code == 2


def test_the_table_of_a_whole_history_equals_what_was_streamed(live: Any, archived: Streamed, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    for first, words in ((True, ["--to", "2026-01-26"]), (False, ["--from", "2026-01-26"])):
        version = 1 if first else 2
        assert invoke("score", "card_fraud", "--bundle", str(version), "--out", str(out), *words).exit_code == 0
        table = pl.read_parquet(out)
        mine = np.asarray(archived.events[BUNDLE]) == version
        known = dict(zip(ids(archived.events), np.asarray(archived.events[SCORE]).tolist(), strict=True))
        assert len(table) == mine.sum()
        assert all(known[name] == score for name, score in table.select("event_id", "score").iter_rows())


def _scores(archived: Streamed, events: Columns) -> Any:
    from batch.score_batch import score_columns
    from riskflow.scoring import Scorer

    return score_columns(Scorer(archived.run().plan, archived.bundles[2]), events)


def _times(events: Columns) -> list[int]:
    return np.asarray(events[TIME]).tolist()  # type: ignore[no-any-return]


def test_the_shelf_needs_no_redis_for_a_file(archived: Streamed) -> None:
    shelf = Shelf(archived.run().plan, archived.run().conf)
    assert shelf.bundle(str(archived.run().folder / BUNDLE_FILE)).usecase == "card_fraud"
