"""Labels that stop are no decay: what they can tell is measured, and that they are silent is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from batch.alerts import Alerts
from batch.drift import Look, act, look
from batch.findings import LABELS, MEASURED, silent
from batch.pipeline_review import Review
from batch.pipeline_watch import Watch
from batch.run import Run
from batch.training_set import SAMPLED, TARGET
from riskflow.columns import Columns, take
from riskflow.evaluate import KIND, TIME
from riskflow.policy import DECLINE
from tests.unit.lake_cases import DAY, DAYS, START, Streamed, run_in, streamed, write_rows

NOW = START + 100 * DAY


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    return streamed(tmp_path_factory.mktemp("home"))


def labels(rows: Columns) -> Any:
    return np.asarray(rows[KIND]) != 0


def until(archived: Streamed, home: Path, day: int, **columns: Any) -> Run:
    """The same lake, to which no label came from that day on."""
    rows = {**archived.rows, **columns}
    kept = take(rows, np.flatnonzero(~labels(rows) | (np.asarray(rows[TIME]) < START + day * DAY)))
    write_rows(home / "lake", archived.run().names, kept, archived.run().plan.entities)
    run = run_in(home)
    file = msgspec.structs.replace(run.pipeline.file, watch=Watch(retrain=True), alerts=Alerts())
    return replace(run, pipeline=type(run.pipeline)(file))


def said(found: Look) -> list[str]:
    return [finding.what for finding in found.findings]


def test_labels_that_stop_are_told_and_are_no_decay(archived: Streamed, tmp_path: Path) -> None:
    found = look(until(archived, tmp_path, 22), archived.bundles[2])
    assert said(found) == [LABELS]
    assert found.measured is None, "no label came after it began to score and its events had time"
    [finding] = found.findings
    assert finding.sentence().startswith("no label since 2026-01-22 2"), finding.sentence()
    events = take(archived.rows, np.flatnonzero(~labels(archived.rows)))
    at_ms, score, action = (np.asarray(events[name]) for name in (TIME, "_score", "_action"))
    due = (at_ms > found.newest_label_ms) & (at_ms <= at_ms.max() - 7 * DAY)
    assert finding.wanted == pytest.approx(score[due & (action != DECLINE)].sum())
    assert score[due & (action == DECLINE)].sum() > 10


def test_what_labels_had_told_before_is_measured_as_it_was_then(archived: Streamed, tmp_path: Path) -> None:
    stopped = look(until(archived, tmp_path, 30), archived.bundles[1])
    then = archived.rows
    early = take(then, np.flatnonzero(np.asarray(then[TIME]) <= stopped.newest_label_ms))
    write_rows(tmp_path / "then/lake", archived.run().names, early, archived.run().plan.entities)
    assert stopped.measured is not None
    assert stopped.measured == look(run_in(tmp_path / "then"), archived.bundles[1]).measured


def test_silence_hides_no_decay_that_labels_had_shown(archived: Streamed, tmp_path: Path) -> None:
    genuine = np.where(labels(archived.rows), 0.0, np.asarray(archived.rows[TARGET]))
    found = look(until(archived, tmp_path, 22, **{TARGET: genuine}), archived.bundles[1])
    assert said(found) == [MEASURED, LABELS]


def test_silence_is_alerted_as_what_it_is_and_asks_for_no_retraining(
    archived: Streamed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = until(archived, tmp_path, 22)
    done = act(run, look(run, archived.bundles[2]), NOW)
    assert (done["drifted"], done["alerted"], done["retrain"]) == (False, True, False)
    assert "alert no_labels of card_fraud: bundle 2 of card_fraud: no label since" in caplog.text


def test_where_no_label_ever_came_nothing_is_measured_and_it_is_said(archived: Streamed, tmp_path: Path) -> None:
    found = look(until(archived, tmp_path, 0), archived.bundles[2])
    assert (said(found), found.measured, found.newest_label_ms) == ([LABELS], None, None)
    assert "no label at all" in found.findings[0].sentence()


def test_where_only_samples_are_labelled_silence_about_the_others_is_none(archived: Streamed, tmp_path: Path) -> None:
    run = until(archived, tmp_path, 22)
    file = msgspec.structs.replace(run.pipeline.file, review=Review(learn=SAMPLED))
    run = replace(run, pipeline=type(run.pipeline)(file))
    assert said(look(run, archived.bundles[2])) == []


def test_labels_that_come_are_not_missed(archived: Streamed, tmp_path: Path) -> None:
    assert said(look(until(archived, tmp_path, DAYS), archived.bundles[2])) == []


def test_a_few_frauds_may_go_untold_by_chance() -> None:
    assert silent(START, 6.0, 0.001) == []
    assert [finding.what for finding in silent(START, 7.0, 0.001)] == [LABELS]
