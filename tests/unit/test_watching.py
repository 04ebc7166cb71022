"""Looks at what was scored live: planted drift is told once and asks for one retraining; forecasts; the model card."""

from __future__ import annotations

import json
import logging
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from batch import drift, retrain
from batch.alerts import Alerts
from batch.card.page import FILE, card, leave_card
from batch.drift import Look, act, drift_step, look, table_of
from batch.findings import Finding
from batch.gates import Kind
from batch.local_chain import train_here
from batch.pipeline_review import Review
from batch.pipeline_watch import Watch
from batch.run import Run
from cli import backtest as backtest_command
from cli import drift as drift_command
from cli import report as report_command
from riskflow.bundle import CARD, Bundle
from riskflow.card import unpacked
from riskflow.columns import Columns, n_rows, take
from riskflow.drift import SCORE, Reference, count, places
from riskflow.errors import NotReady
from riskflow.evaluate import KIND, TIME
from riskflow.registry import Registry
from riskflow.scoring import Scorer
from riskflow.settings import settings as conf
from tests.unit.lake_cases import DAY, START, Streamed, published, run_in, streamed, write_rows

NOW = START + 100 * DAY
app = typer.Typer()
for command in (backtest_command, drift_command, report_command):
    command.register(app)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    return streamed(tmp_path_factory.mktemp("home"))


@pytest.fixture
def live(archived: Streamed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The lake's two bundles in a registry, the second one as champion."""
    yield published(archived, monkeypatch, "better <b>on</b> & off")
    conf.cache_clear()


def asking(run: Run, **watch: Any) -> Run:
    """With these lines under `watch`; alerts go to the log."""
    file = msgspec.structs.replace(run.pipeline.file, watch=Watch(**watch), alerts=Alerts())
    return replace(run, pipeline=type(run.pipeline)(file))


def planted(archived: Streamed, home: Path, **watch: Any) -> Run:
    """The same lake, in whose last five days amounts are thirty times as large."""
    rows = archived.rows
    late = np.asarray(rows[TIME]) >= START + 35 * DAY
    amount: Any = rows["amount"]
    write_rows(home / "lake", archived.run().names, {**rows, "amount": np.where(late, amount * 30, amount)},
               archived.run().plan.entities)  # fmt: skip
    return asking(run_in(home), **watch)


def alerts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "batch.alerts" and r.levelno == logging.WARNING]


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_a_look_counts_what_the_stream_would_count(archived: Streamed) -> None:
    bundle = archived.bundles[2]
    reference = Reference.of(bundle.profile)
    mine = np.flatnonzero((np.asarray(archived.rows[KIND]) == 0) & (np.asarray(archived.rows["_bundle"]) == 2))
    columns = take(archived.rows, mine)
    scorer, table = Scorer(archived.run().plan, bundle), reference.table()
    where = places(reference, [(layer.name, layer.inputs) for layer in scorer.layers])
    for first in range(0, len(mine), 100):
        block: Columns = take(columns, np.arange(first, min(first + 100, len(mine))))
        scored = scorer.score(block)
        count(where, scored.matrices, scored.score, np.arange(n_rows(block)), table)
    np.testing.assert_array_equal(table_of(reference, bundle, columns), table)
    assert table.sum() == len(mine) * len(reference)


def test_a_quiet_world_is_quiet(archived: Streamed, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for version in (1, 2):
        found = look(archived.run(), archived.bundles[version])
        assert found.findings == []
        assert {f.name for f in found.features} == {*Reference.of(archived.bundles[version].profile).names}
        assert SCORE in {f.name for f in found.features}
    run = replace(run_in(tmp_path), pipeline=archived.run().pipeline)
    done = act(run, found, NOW)
    assert (done["drifted"], done["alerted"], done["retrain"]) == (False, False, False)
    assert alerts(caplog) == []
    assert [one["bundle"] for one in drift.kept(run)] == [2]


def test_quality_is_estimated_at_once_and_measured_once_labels_are_mature(archived: Streamed) -> None:
    found = look(archived.run(), archived.bundles[2])
    assert found.estimated is not None
    assert found.measured is not None
    assert found.estimated["events"] == found.events > 0
    newest = int(np.asarray(archived.rows[TIME]).max())
    assert sum(w["events"] for w in found.weeks) >= found.measured["events"]
    assert found.weeks[-1]["from_ms"] <= newest - archived.run().pipeline.maturity_ms
    assert found.promised["ap"] == archived.bundles[2].metrics["ap"]
    young = look(archived.run(), archived.bundles[2], from_ms=newest - DAY)
    assert 0 < young.events < 400
    assert "too few to tell" in young.says


def test_planted_drift_raises_one_alert_and_asks_for_one_retraining(
    archived: Streamed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = planted(archived, tmp_path, retrain=True, window="5d")

    def at(hours: float) -> dict[str, Any]:
        named = replace(run, name=f"at-{hours}")
        return act(named, look(named, archived.bundles[2], now_ms=NOW), NOW + int(hours * DAY / 24))

    first = at(0)
    assert (first["drifted"], first["alerted"], first["retrain"]) == (True, True, True)
    [said] = alerts(caplog)
    assert "alert drift of card_fraud: bundle 2 of card_fraud: amount has drifted (PSI" in said
    assert "A retraining is asked for" in said
    assert '"what": "inputs", "name": "amount"' in said
    assert first == at(0), "the same run again, because its task was tried again"
    for hours in (1, 5, 22):
        again = at(hours)
        assert (again["drifted"], again["alerted"], again["retrain"]) == (True, False, False)
    assert len(alerts(caplog)) == 2  # of the run that was tried again
    assert at(23.99)["alerted"], "the daily look of the next day, some seconds early"
    assert (at(26)["retrain"], at(47.99)["retrain"]) == (False, True)


def test_nothing_asks_for_a_retraining_unless_it_is_switched_on(archived: Streamed, tmp_path: Path) -> None:
    run = planted(archived, tmp_path, window="5d")
    done = act(run, look(run, archived.bundles[2]), NOW)
    assert (done["drifted"], done["retrain"]) == (True, False)


def test_inputs_that_were_there_and_are_gone_are_told(archived: Streamed, tmp_path: Path) -> None:
    rows = archived.rows
    late = np.asarray(rows[TIME]) >= START + 35 * DAY
    lost = np.where(late, np.nan, np.asarray(rows["amount"]))
    write_rows(tmp_path / "lake", archived.run().names, {**rows, "amount": lost}, archived.run().plan.entities)
    found = look(asking(run_in(tmp_path), window="5d"), archived.bundles[2])
    assert [(f.what, f.name) for f in found.findings] == [("missing", "amount")]
    assert found.findings[0].found > 0.99


def test_quality_that_broke_its_promise_is_told_as_decay(
    archived: Streamed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    about = archived.bundles[2].manifest
    boast = {"ap": 0.99, "precision": 0.98, "recall": 0.9}
    promised = {**about["metrics"], **boast, "passed": {**about["metrics"]["passed"], **boast}}
    boasting = replace(archived.bundles[2], manifest={**about, "metrics": promised})
    found = look(asking(archived.run(), decay=0.05), boasting)
    assert {(f.what, f.name) for f in found.findings} >= {("measured", "average precision")}
    run = asking(run_in(tmp_path))
    assert act(run, found, NOW)["alerted"]
    assert "alert decay of card_fraud" in alerts(caplog)[0]


def test_an_alert_that_reached_nobody_is_raised_by_the_next_look(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    found = Look("card_fraud", 2, "h", NOW, "rows", None, None, 900, findings=[Finding("inputs", "amount", 1.0, 0.2)])

    def raised(name: str, later_ms: int, **channels: Any) -> bool:
        file = msgspec.structs.replace(run.pipeline.file, alerts=Alerts(**channels))
        named = replace(run, name=name, pipeline=type(run.pipeline)(file))
        return bool(act(named, found, NOW + later_ms)["alerted"])

    assert not raised("first", 0, webhook="http://127.0.0.1:9/nobody")
    assert not raised("second", 1, kinds=["task_failed"])
    assert raised("third", 2)
    assert not raised("fourth", 3), "it was said a moment ago"


def test_what_cannot_be_told_is_said(archived: Streamed, tmp_path: Path) -> None:
    bare = replace(archived.bundles[2], manifest={**archived.bundles[2].manifest, "profile": {}})
    assert "has no profile" in look(archived.run(), bare).says
    other = replace(archived.bundles[2], manifest={**archived.bundles[2].manifest, "version": 9})
    assert "no archived event was scored by bundle 9" in look(archived.run(), other).says
    assert "no event of that time" in look(archived.run(), archived.bundles[2], from_ms=NOW).says
    with pytest.raises(NotReady, match="riskflow archive card_fraud"):
        look(run_in(tmp_path), archived.bundles[2])


# ---- with a registry -------------------------------------------------------------------------------------------------


def test_the_step_looks_at_the_champion_and_its_card_shows_it(archived: Streamed, live: Registry) -> None:
    done = drift_step(archived.run(), NOW)
    assert (done["bundle"], done["drifted"], done["retrain"]) == (2, False, False)
    assert json.loads(Path(done["file"]).read_text())["events"] == done["events"]
    html = unpacked(live.client.get(live.names.card(2)))
    assert "Nothing is past its threshold" in html
    live.client.delete(live.names.aliases)
    assert drift_step(archived.run(), NOW) == {
        "drifted": False, "retrain": False, "alerted": False, "says": "there is no champion",
    }  # fmt: skip


def test_planted_drift_leads_to_a_new_champion_through_all_gates(
    archived: Streamed, live: Registry, tmp_path: Path
) -> None:
    shutil.copytree(archived.home / "keys", tmp_path / "keys")
    run = planted(archived, tmp_path, window="5d", retrain=True)
    asked = drift_step(run, NOW)
    assert (asked["bundle"], asked["drifted"], asked["retrain"]) == (2, True, True)

    gates = msgspec.convert([{"gate": "not_worse", "margin": 0.5}, {"gate": "onnx_parity"}], list[Kind])  # a small town
    quick = msgspec.structs.replace(run.pipeline.file, candidates=["logistic_regression"], gates=gates)
    again = replace(run, name="asked_by_drift", pipeline=replace(run.pipeline, file=quick))
    done = train_here(again, lambda *_: None, who="drift", why=asked["findings"][0])

    champion = live.champion()
    assert champion is not None
    assert (done["version"], champion.version, champion.who) == (3, 3, "drift")
    assert "amount has drifted" in champion.why
    verdict = json.loads((again.folder / "verdict.json").read_text())
    assert "not_worse" in {gate["name"] for gate in verdict["gates"]}
    assert all(gate["passed"] for gate in verdict["gates"])


def test_the_command_shows_a_look_and_keeps_nothing(archived: Streamed, live: Registry) -> None:
    before = set(archived.home.rglob("*"))
    found = CliRunner().invoke(app, ["drift", "card_fraud", "--json"], catch_exceptions=False)
    shown = json.loads(found.stdout)
    assert shown["bundle"] == 2
    table = CliRunner().invoke(app, ["drift", "card_fraud", "--all", "--from", "2026-02-01"], catch_exceptions=False)
    assert "nothing is past its threshold" in table.stdout
    for feature in shown["features"]:
        assert feature["name"] in table.stdout
    for word in ("promised", "estimated", "measured", "week from"):
        assert word in table.stdout
    assert CliRunner().invoke(app, ["drift", "card_fraud", "--source", "guess"]).exit_code == 2
    assert set(archived.home.rglob("*")) == before


# ---- the card --------------------------------------------------------------------------------------------------------


def parsed(html: str) -> ElementTree.Element:
    """The page; it is well-formed but for its empty tags and attributes without a value."""
    body = re.sub(r"<(meta|link)([^>]*)>", r"<\1\2/>", html.replace("<!doctype html>", ""))
    return ElementTree.fromstring(body.replace("<details open>", '<details open="">'))


def test_a_judged_candidate_leaves_a_card_that_needs_nothing_else(archived: Streamed) -> None:
    run = archived.run()
    html = (run.folder / FILE).read_text()
    page = parsed(html)
    assert not re.search(r"<script|<link|<img|<iframe|@import|https?://(?!www\.w3\.org/)", html)
    assert not re.search(r"(href|src)=\"(?!#)", html)
    ids = [e.attrib["id"] for e in page.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids)), "pictures share ids"
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', html))
    assert used <= set(ids)
    assert len(re.findall("<svg", html)) == 7
    words = " ".join(page.itertext())
    bundle = Bundle.from_bytes((run.folder / retrain.BUNDLE).read_bytes())
    for model in bundle.models:
        for name in model["inputs"]:
            assert name in words or name in run.plan.models
    for gate in json.loads((run.folder / "verdict.json").read_text())["gates"]:
        assert gate["wanted"] in words
    for name in ("ROC", "Precision and recall", "Lift", "Calibration", "chip", "contactless", "card_testing"[:4],
                 "onnxruntime", bundle.content_hash, "candidate, not published"):  # fmt: skip
        assert name in words


def test_a_card_tells_which_candidates_and_functions_failed(archived: Streamed, tmp_path: Path) -> None:
    made = archived.run()
    run = run_in(tmp_path)
    shutil.copytree(made.folder, run.folder)
    bundle, path = Bundle.from_bytes((made.folder / retrain.BUNDLE).read_bytes()), run.folder / "verdict.json"
    assert "What failed and was left out" not in card(run, bundle, published=False)
    failed = {"not_trained": {"forest": "MemoryError: <none> left"}, "raised": {"large_amount": "raised in 3 rows"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **failed}))
    words = " ".join(" ".join(parsed(card(run, bundle, published=False)).itertext()).split())
    assert "forest was not trained: MemoryError: <none> left large_amount raised in 3 rows; it is not known" in words
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in failed}))
    assert "What failed and was left out" not in card(run, bundle, published=False), "as written by older code"


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({}, "counts as genuine after 14d, a declined one as unknown; younger"),
        ({"declined": "as_labelled"}, "counts as genuine after 14d; younger"),
        ({"label_maturity": {"chargeback": "45d", "analyst": "3d"}}, "counts as genuine after 45d, a"),
        ({"review": Review(learn="sampled")}, "only sampled events that somebody has labelled count, once"),
    ],
)
def test_a_card_says_what_silence_counts_as(archived: Streamed, declared: dict[str, Any], says: str) -> None:
    run = archived.run()
    file = msgspec.structs.replace(run.pipeline.file, maturity="14d", **declared)
    told = replace(run, pipeline=replace(run.pipeline, file=file))
    bundle = Bundle.from_bytes((run.folder / retrain.BUNDLE).read_bytes())
    assert says in card(told, bundle, published=False)


def test_what_the_bundle_carries_for_its_card_is_small_and_harms_no_scoring(archived: Streamed) -> None:
    bundle = archived.bundles[2]
    assert len(bundle.files[CARD]) < 40_000
    found = bundle.card
    assert set(found["importances"]["drop"]) == set(Scorer(archived.run().plan, bundle).inputs)
    assert found["segments"]["channel"].keys() <= {"chip", "contactless", "online", "not known"}
    groups = found["segments"]["channel"].values()
    assert sum(g["events"] for g in groups) == found["validation"]["rows"]
    assert sum(g["frauds"] for g in groups) == found["validation"]["frauds"]
    for curve in ("roc", "gain"):
        xs, ys = found["curves"][curve]["x"], found["curves"][curve]["y"]
        assert xs == sorted(xs)
        assert ys == sorted(ys)
        assert (xs[0], ys[0], xs[-1], ys[-1]) == (0, 0, 1, 1)
    bare = {name: content for name, content in bundle.files.items() if name != CARD}
    sections = {k: v for k, v in bundle.manifest.items() if k not in ("files", "format")}
    old = Bundle.of(sections, bare)
    assert old.card == {}
    html = card(archived.run(), old, published=False)
    assert "not said by the bundle" in html


def test_a_published_card_stands_beside_its_bundle(archived: Streamed, live: Registry, tmp_path: Path) -> None:
    run = archived.run()
    assert leave_card(run, 2) == run.folder / FILE
    html = unpacked(live.client.get(live.names.card(2)))
    assert html == (run.folder / FILE).read_text()
    assert "version 2" in html
    assert "better &lt;b&gt;on&lt;/b&gt; &amp; off" in html, "what people wrote is text"
    out = tmp_path / "card.html"
    said = CliRunner().invoke(app, ["report", "champion", "--out", str(out)], catch_exceptions=False)
    assert (said.exit_code, str(out) in said.stdout) == (0, True)
    parsed(out.read_text())
    live.client.delete(live.names.card(2))
    for store in (False, True):
        CliRunner().invoke(app, ["report", "2", "--out", str(out), *["--store"] * store], catch_exceptions=False)
        assert (live.client.get(live.names.card(2)) is not None) == store
    file = str(run.folder / retrain.BUNDLE)
    assert CliRunner().invoke(app, ["report", file, "--out", str(out), "--store"]).exit_code == 2
    assert CliRunner().invoke(app, ["report", file, "--out", str(out)]).exit_code == 0
    assert "candidate, not published" in out.read_text()


def test_a_card_that_cannot_be_made_breaks_no_run(
    archived: Streamed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_in(tmp_path)
    assert leave_card(run) is None
    assert caplog.records == []
    run.folder.mkdir(parents=True)
    (run.folder / retrain.BUNDLE).write_bytes(b"no bundle")
    assert leave_card(run) is None
    assert "no model card was made" in caplog.text


def test_a_look_of_a_bundle_of_rules_has_nothing_to_draw(archived: Streamed) -> None:
    from riskflow.policy import Policy

    run = archived.run()
    sections = {
        **archived.bundles[2].manifest, "models": [], "metrics": {}, "profile": {}, "data": {}, "reference": {},
        "policy": Policy.load(run.plan.usecase.folder / "policy.yaml").start(), "calibration": None,
    }  # fmt: skip
    sections = {k: v for k, v in sections.items() if k not in ("files", "format")}
    html = card(run, Bundle.of(sections, {}), published=False)
    assert "the policy&#39;s rules alone decide" in html
    assert "<svg" not in html
    assert isinstance(look(run, Bundle.of(sections, {})), Look)
