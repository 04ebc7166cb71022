"""The steps of a retraining on a lake: files of a first start and streamed rows are one history."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch import dataset, lake, retrain
from batch.archived import CheckFailed, collected, with_features
from batch.generations import FILES, Generations, Start
from batch.history import history_columns
from batch.pipeline_checks import Range
from batch.replay import replay
from batch.run import Run
from batch.simulate import Delays, Shares, simulate
from batch.training_set import TrainingSet
from cli.common import load_plan
from riskflow.columns import Columns, n_rows, take
from riskflow.evaluate import KIND, TIME
from riskflow.names import Names
from riskflow.settings import load
from tests.unit.lake_cases import ids, write_rows

DAY = 86_400_000
START = 1_767_225_600_000
DAYS = 50


@dataclass(frozen=True)
class Lake:
    """A use case whose first 30 days came from files and whose last 20 were streamed, as one partition."""

    home: Path
    whole: Columns  # all rows with features, replayed in one go

    def run(self, name: str = "tried", **pipeline: str) -> Run:
        import msgspec

        run = Run.of(load_plan("card_fraud"), load(home=self.home), name)
        file = msgspec.structs.replace(run.pipeline.file, **{"span": "21d", "maturity": "7d", **pipeline})
        checks = msgspec.structs.replace(file.checks, rows=Range(500), label_rate=Range(0.0005, 0.3))
        return Run(run.plan, type(run.pipeline)(msgspec.structs.replace(file, checks=checks)), run.conf, run.name)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    home = tmp_path_factory.mktemp("home")
    plan = load_plan("card_fraud")
    shares = Shares(stolen_card=0.03, compromised_terminal=0.03, card_testing=0.0)
    delays = Delays(chargeback_median_ms=2 * DAY, genuine_ms=3 * DAY)
    world = simulate(3, START, DAYS, 120, 60, shares=shares, delays=delays)
    rows = history_columns(plan, {"events": world.events, "labels": world.labels})
    rows = take(rows, np.flatnonzero(np.asarray(rows[TIME]) < START + DAYS * DAY))
    first = int((np.asarray(rows[TIME]) < START + 30 * DAY).sum())
    before = replay(plan, take(rows, np.arange(first)))
    after = replay(plan, take(rows, np.arange(first, n_rows(rows))), records=before.records)
    names = Names("card_fraud")
    generations = Generations(plan, names, home / "lake")
    layout = plan.layout_fingerprint
    generations.write(Start(1, FILES, layout=layout), before.records, None, take(rows, np.arange(first)))
    write_rows(home / "lake", names, after.columns, plan.entities)
    return Lake(home, replay(plan, rows).columns)


def test_files_and_streamed_rows_get_the_features_of_one_history(archived: Lake) -> None:
    run = archived.run()
    found = with_features(run)
    assert ids(found) == ids(archived.whole)
    for name in run.plan.features:
        np.testing.assert_array_equal(found[name], archived.whole[name], err_msg=name)


def test_the_span_ends_where_the_newest_row_is_mature(archived: Lake) -> None:
    run = archived.run()
    about = retrain.replay_frame(run)
    data = TrainingSet.read(run.folder / retrain.FRAME)
    newest = int(np.asarray(archived.whole[TIME]).max())
    assert data.at_ms.max() <= newest - 7 * DAY
    assert data.at_ms.min() > newest - 28 * DAY
    assert about["rows"] == len(data) == len(set(ids(data.columns)))
    assert 0 < data.rate < 0.2


def test_one_row_on_which_a_function_raises_leaves_the_others_and_is_told(
    archived: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = archived.run("one_bad_row")
    calculations = run.plan.usecase.calculations
    right = calculations["large_amount"]
    amounts = np.asarray(archived.whole["amount"])
    bad = amounts[np.asarray(archived.whole[KIND]) == 0][-900]

    def careful(amount: Any) -> Any:
        if (amount == bad).any():
            raise ValueError("cannot be")
        return right(amount)

    monkeypatch.setitem(calculations, "large_amount", careful)
    about = retrain.replay_frame(run)
    there = np.flatnonzero(amounts == bad)
    told = {"large_amount": f"raised in {len(there)} rows, such as ValueError: cannot be"}
    assert about["raised"] == told
    assert "one_bad_row: large_amount raised" in caplog.text
    found = with_features(run)
    assert np.flatnonzero(np.isnan(np.asarray(found["large_amount"]))).tolist() == sorted(
        {*there, *np.flatnonzero(np.isnan(np.asarray(archived.whole["large_amount"])))}
    )
    retrain.train(run, "logistic_regression")
    assert retrain.judge_run(run, alone=True)["raised"] == told


def test_the_steps_hand_over_files_to_the_verdict(archived: Lake) -> None:
    run = archived.run("scheduled__2026-02-20T03:00:00+00:00")
    assert ":" not in run.name
    retrain.check(run)
    retrain.replay_frame(run)
    summary = retrain.train(run, "logistic_regression")
    assert summary["candidate"] == "logistic_regression"
    verdict = retrain.judge_run(run, alone=True)
    assert verdict["race"].keys() == {"logistic_regression"}
    assert (run.folder / retrain.BUNDLE).is_file()
    assert json.loads((run.folder / "verdict.json").read_text())["candidate"] == "logistic_regression"


def test_a_lake_without_rows_or_frauds_is_refused_before_training(archived: Lake, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="holds no rows"):
        retrain.check(Run.of(load_plan("card_fraud"), load(home=tmp_path), "tried"))
    with pytest.raises(CheckFailed, match=r"rows: found 0, wanted at least 500; frauds: found 0"):
        retrain.check(archived.run(maturity="60d"))


def test_steps_in_the_wrong_order_say_which_comes_first(archived: Lake) -> None:
    run = archived.run("empty")
    with pytest.raises(retrain.RiskflowError, match="Run the step `replay` first"):
        retrain.train(run, "logistic_regression")


def test_a_set_with_files_is_made_again_though_another_began(archived: Lake, tmp_path: Path) -> None:
    shutil.copytree(archived.home / "lake", tmp_path / "lake")
    run = Lake(tmp_path, archived.whole).run()
    retrain.replay_frame(run)
    data, manifest = TrainingSet.read(run.folder / retrain.FRAME), dataset.read(run.folder)
    assert [g["generation"] for g in manifest["generations"]] == [1]
    generations = Generations(run.plan, run.names, run.conf.lake_folder)
    history = take(archived.whole, np.arange(500))
    layout = run.plan.layout_fingerprint
    rows_from = {"0": lake.ends(run.conf.lake_folder, run.names.rows)[0]}
    generations.write(
        Start(2, FILES, layout=layout, rows_from=rows_from), replay(run.plan, history).records, None, history
    )
    assert dataset.rebuild(run, manifest).table().equals(data.table())
    assert n_rows(collected(run)) == 500, "what is new is learned from alone now"
    path = generations.folder(1) / "history.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(dataset.CannotRebuild, match=r"card_fraud\.g1/history\.parquet is not what it was"):
        dataset.rebuild(run, manifest)
