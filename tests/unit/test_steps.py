"""Steps and the history of task runs: what is kept of each try, and what one candidate's failure does to the others."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

from batch import lake, ready, retrain
from batch.archived import CheckFailed
from batch.gates.parity import OnnxParity
from batch.lake import part_name
from batch.past_steps import Wish, moment_ms
from batch.run import Run
from batch.steps import STEPS, Asked, run_name
from batch.task_runs import FAILED, REFUSED, RUNNING, SKIPPED, SUCCESS, Skipped, TaskRun, failed_outside, recorded
from batch.task_runs import task_runs as history
from batch.training_set import TrainingSet
from riskflow.errors import DeclarationError, NotReady
from riskflow.evaluate import ID, TIME
from riskflow.settings import load
from tests.support import plan_of

DAY = 86_400_000


def tried(name: str = "check", **more: Any) -> TaskRun:
    return TaskRun("card_fraud", "r1", name, "card_fraud_retrain", "manual__1", **more)


# ---- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Skipped("nothing new"), SKIPPED),
        (CheckFailed("too few rows"), REFUSED),
        (NotReady("no Kafka"), FAILED),
        (KeyboardInterrupt(), FAILED),
    ],
)
def test_how_a_try_ended_is_kept(tmp_path: Path, error: BaseException, outcome: str) -> None:
    with pytest.raises(type(error)), recorded(tmp_path, tried()):
        raise error
    (found,) = history(tmp_path, "card_fraud")
    assert found.outcome == outcome
    assert found.error == f"{type(error).__name__}: {error}"
    assert found.seconds is not None


def test_a_look_after_which_a_task_looks_again_is_no_end_of_it(tmp_path: Path) -> None:
    for waits, outcome in ((True, RUNNING), (False, SUCCESS)):
        with recorded(tmp_path, tried("guard")) as ended:
            ended.waits = waits
        assert [t.outcome for t in history(tmp_path, "card_fraud")] == [outcome]


def test_the_newest_try_of_each_task_counts(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with pytest.raises(ValueError), recorded(tmp_path, tried(attempt=attempt)):
            raise ValueError
    with recorded(tmp_path, tried(attempt=10)) as ended:
        ended.summary = {"rows": 7}
    with recorded(tmp_path, tried("train", map_index=0)) as ended:
        ended.label = "forest"
    with recorded(tmp_path, tried("train", map_index=1)) as ended:
        assert [t.outcome for t in history(tmp_path, "card_fraud")] == [SUCCESS, SUCCESS, RUNNING]
    found = history(tmp_path, "card_fraud")
    assert [(t.name, t.attempt, t.outcome) for t in found] == [
        ("check", 10, SUCCESS), ("train-0", 1, SUCCESS), ("train-1", 1, SUCCESS)
    ]  # fmt: skip
    assert found[0].summary == {"rows": 7}
    assert found[1].label == "forest"


def test_a_task_whose_process_died_is_told_by_somebody_else(tmp_path: Path) -> None:
    tried().write(tmp_path)
    failed_outside(tmp_path, tried(), "killed")
    assert [(t.outcome, t.error) for t in history(tmp_path, "card_fraud")] == [(FAILED, "killed")]
    failed_outside(tmp_path, tried(), "told again")
    assert history(tmp_path, "card_fraud")[0].error == "killed"


def test_a_history_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runs").write_text("no folder")
    with recorded(tmp_path, tried()):
        pass
    assert "cannot be written" in caplog.text


def test_a_foreign_file_in_the_history_is_passed_over(tmp_path: Path) -> None:
    with recorded(tmp_path, tried()):
        pass
    (tried().path(tmp_path).parent / "other.1.json").write_text('{"what": "else"}')
    assert len(history(tmp_path, "card_fraud")) == 1


# ---- what a step is asked --------------------------------------------------------------------------------------------


def test_what_is_asked_goes_through_words(tmp_path: Path) -> None:
    asked = Asked("card_fraud", "backtest", "count_day", "manual__1", {"why": 'a "b"', "from": None}, 1, 2, "ann", 3, 4)
    assert Asked.from_json(asked.to_json()) == asked
    with pytest.raises(DeclarationError, match="cannot be read"):
        Asked.from_json('{"usecase": "card_fraud", "shell": "rm"}')


def test_runs_of_two_dags_have_folders_of_their_own() -> None:
    at = "scheduled__2026-01-01T00:00:00+00:00"
    assert run_name("retrain", at) == "scheduled__2026-01-01T00_00_00_00_00"
    assert run_name("drift", at) != run_name("retrain", at)
    assert "/" not in run_name("drift", "../../x")
    for kind in ("retrain", "drift"):  # what names the record is the run's folder
        run = Run.of(plan_of(), load(home=Path("/x")), run_name(kind, at))
        assert run.name == run_name(kind, at)


def test_every_step_says_what_it_does() -> None:
    assert all((f.__doc__ or "").strip().endswith(".") for f in STEPS.values())


@pytest.mark.parametrize(
    ("params", "span"),
    [
        ({}, (5, 9)),
        ({"from": None, "to": None}, (5, 9)),
        ({"from": "2026-03-01"}, (1_772_323_200_000, None)),
        ({"from": "2026-03-01", "to": "2026-03-01T12:00:00Z"}, (1_772_323_200_000, 1_772_366_400_000)),
        ({"to": "2026-03-01"}, (None, 1_772_323_200_000)),
    ],
)
def test_params_ask_for_another_span_than_the_data_interval(params: dict[str, Any], span: tuple[Any, Any]) -> None:
    wish = Wish.of({**params, "bundle": "7", "segments": ["channel"], "policy": None}, 5, 9)
    assert (wish.from_ms, wish.to_ms) == span
    assert (wish.bundle, wish.segments, wish.policy) == ("7", ("channel",), None)


def test_a_time_that_is_none_is_refused_by_its_name() -> None:
    with pytest.raises(DeclarationError, match="param from"):
        moment_ms("yesterday", "param from")
    with pytest.raises(DeclarationError, match="2026-03-02 is not before to, 2026-03-01"):
        Wish.of({"from": "2026-03-02", "to": "2026-03-01"}, None, None)


# ---- riskflow step ---------------------------------------------------------------------------------------------------


def step(home: Path, usecases: Path, **asked: Any) -> tuple[int, str]:
    from cli.main import GROUPS, app
    from riskflow.settings import settings

    if not app.registered_commands:
        import importlib

        for group in GROUPS:
            importlib.import_module(f"cli.{group}").register(app)
    words = Asked("card_fraud", "maintain", "mend", "manual__1", **asked).to_json()
    environment = {"RISKFLOW_HOME": str(home), "RISKFLOW_USECASES": str(usecases)}
    before = {name: os.environ.get(name) for name in environment}
    try:
        os.environ.update(environment)
        settings.cache_clear()
        done = CliRunner().invoke(app, ["step", "--asked", words, "--skip-unless", "set_aside"])
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        settings.cache_clear()
    return done.exit_code, done.output


def test_a_step_by_hand_keeps_its_record_and_hands_over_its_summary(tmp_path: Path) -> None:
    usecases = load().usecases
    code, said = step(tmp_path, usecases)
    assert (code, "nothing to go on with" in said) == (77, True)
    (found,) = history(tmp_path, "card_fraud")
    assert (found.outcome, found.run, found.dag) == (SKIPPED, "maintain__manual__1", "card_fraud_maintain")

    broken = tmp_path / "lake" / "card_fraud.rows" / "date=2026-01-01" / part_name(0, 0, 9)
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no Parquet")
    code, said = step(tmp_path, usecases, attempt=2)
    assert code == 0, said
    assert json.loads(said.strip().splitlines()[-1])["set_aside"]
    (found,) = history(tmp_path, "card_fraud")
    assert (found.outcome, found.attempt) == (SUCCESS, 2)


# ---- one candidate that fails ----------------------------------------------------------------------------------------


@pytest.fixture
def framed(tmp_path: Path) -> Run:
    """A small use case whose run has a frame, and a candidate that cannot be trained."""
    from tests.unit.training_cases import linear, rows, small_plan

    def broken() -> Any:
        raise RuntimeError("no such estimator")

    run = Run.of(small_plan(linear=linear, broken=broken), load(home=tmp_path), "r1")
    data: TrainingSet = rows()
    run.folder.mkdir(parents=True)
    data.write(run.folder / retrain.FRAME)
    return run


@pytest.mark.learns
def test_a_candidate_that_fails_is_listed_and_the_others_race(framed: Run) -> None:
    retrain.train(framed, "linear")
    with pytest.raises(RuntimeError):
        retrain.train(framed, "broken")
    verdict = retrain.judge_run(framed, alone=True)
    assert verdict["candidate"] == "linear"
    assert verdict["not_trained"] == {"broken": "RuntimeError: no such estimator"}
    assert json.loads((framed.folder / "verdict.json").read_text())["not_trained"] == verdict["not_trained"]


@pytest.mark.learns
def test_a_candidate_that_onnx_cannot_say_leaves_the_race_and_alone_meets_the_gate(framed: Run) -> None:
    """A tree that has met missing values is exported without its branches for them, and would win here."""
    from tests.unit.training_cases import linear, rows, small_plan, tree

    data: Any = rows()
    low_or_missing = np.where(np.arange(len(data)) % 2, np.nan, -9.0)  # both belong to the left of any split
    data.columns["noise"] = np.where(data.fraud == 1, low_or_missing, data.columns["noise"])
    data.write(framed.folder / retrain.FRAME)
    plan = small_plan(linear=lambda: make_pipeline(SimpleImputer(), linear()), tree=tree)
    gates: list[Any] = [OnnxParity()]
    file = msgspec.structs.replace(framed.pipeline.file, candidates=["linear", "tree"], gates=gates)
    run = replace(framed, plan=plan, pipeline=replace(framed.pipeline, file=file))
    for candidate in ("linear", "tree"):
        retrain.train(run, candidate)
    verdict = retrain.judge_run(run, alone=True)
    assert verdict["candidate"] == "linear"
    assert "differs from what was trained" in verdict["not_trained"]["tree"]
    shutil.rmtree(run.folder / "candidates" / "linear")
    verdict = retrain.judge_run(run, alone=True)
    assert (verdict["candidate"], verdict["not_trained"]) == ("tree", {})
    assert "onnx_parity" in {gate["name"] for gate in verdict["gates"] if not gate["passed"]}


@pytest.mark.learns
def test_so_it_is_without_airflow(framed: Run) -> None:
    assert [t["candidate"] for t in retrain.train_all(framed)] == ["linear"]
    assert set(retrain.judge_run(framed, alone=True)["not_trained"]) == {"broken"}


def test_where_all_fail_the_error_is_theirs(framed: Run) -> None:
    file = msgspec.structs.replace(framed.pipeline.file, candidates=["broken"])
    alone = replace(framed, pipeline=replace(framed.pipeline, file=file))
    with pytest.raises(RuntimeError, match="no such estimator"):
        retrain.train_all(alone)


# ---- labels that are ready -------------------------------------------------------------------------------------------


def archived(run: Run, feed: str, first: int, **columns: list[Any]) -> None:
    n = len(next(iter(columns.values())))
    path = run.conf.lake_folder / run.names.feed(feed) / "date=2026-01-01" / part_name(0, first, first + n - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    at = {lake.OFFSET: list(range(first, first + n)), lake.PARTITION: [0] * n}
    pl.DataFrame({**at, **columns}).write_parquet(path)


def test_labels_are_announced_when_events_have_become_mature_and_once(tmp_path: Path) -> None:
    """Maturity is 14 days: of five labelled events those are counted that are older beside the newest row."""
    run = Run.of(plan_of(), load(home=tmp_path), "first")
    assert ready.fresh_labels(run) == {"mature": 0, "fresh": 0, "ready": False}
    at = [0, DAY, 2 * DAY, 10 * DAY, 15 * DAY]
    archived(run, "events", 0, **{ID: list("abcde"), TIME: at, lake.STATUS: ["ok"] * 5})
    about = ["a", "b", "d", "x", "a", "c"]
    status = ["ok", "parked", "ok", "ok", "ok", "bad_json"]
    archived(
        run, "labels", 0, **{"event_id": about, TIME: [5 * DAY, 5 * DAY, 12 * DAY, DAY, DAY, DAY], lake.STATUS: status}
    )

    found = ready.fresh_labels(run)
    assert found == {"mature": 3, "fresh": 3, "ready": True}  # a, b, and x, whose event is in no message
    assert ready.fresh_labels(run) == found  # a task that is tried again
    assert not ready.fresh_labels(replace(run, name="second"))["ready"]

    archived(run, "events", 5, **{ID: ["f"], TIME: [25 * DAY], lake.STATUS: ["ok"]})
    assert ready.fresh_labels(replace(run, name="third")) == {"mature": 4, "fresh": 1, "ready": True}  # d

    archived(run, "events", 6, **{ID: ["g"], TIME: [14 * DAY], lake.STATUS: ["ok"]})
    archived(run, "labels", 6, **{"event_id": ["g"], TIME: [28 * DAY], lake.STATUS: ["ok"]})
    found = ready.fresh_labels(replace(run, name="fourth"))
    assert found == {"mature": 5, "fresh": 1, "ready": True}, "so late somebody has spoken"


def test_labels_of_another_lake_are_counted_from_what_it_holds(tmp_path: Path) -> None:
    run = Run.of(plan_of(), load(home=tmp_path), "first")
    ready._write(tmp_path / "labels" / "card_fraud.json", {"mature": 50_000, "fresh": 9, "ready": True, "run": "old"})
    archived(run, "events", 0, **{ID: ["a", "z"], TIME: [0, 30 * DAY], lake.STATUS: ["ok"] * 2})
    archived(run, "labels", 0, **{"event_id": ["a"], TIME: [5 * DAY], lake.STATUS: ["ok"]})
    assert ready.fresh_labels(run) == {"mature": 1, "fresh": 0, "ready": False}

    archived(run, "events", 2, **{ID: ["b"], TIME: [DAY], lake.STATUS: ["ok"]})
    archived(run, "labels", 1, **{"event_id": ["b"], TIME: [5 * DAY], lake.STATUS: ["ok"]})
    assert ready.fresh_labels(replace(run, name="second")) == {"mature": 2, "fresh": 1, "ready": True}
