"""Was the forecast right: what a backtest had foretold beside what the bundle said in shadow and decided live."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from batch import forecasts
from batch.backtest import backtest
from batch.card.page import card
from batch.forecast_errors import forecast_error, foretold, shown
from batch.past import ACTION, BUNDLE, past
from batch.read_only import Shelf
from cli import backtest as backtest_command
from cli.backtest_report import report_errors
from riskflow.columns import take
from riskflow.errors import NotReady
from riskflow.evaluate import TIME
from riskflow.policy import ACTIONS
from riskflow.registry import Registry
from riskflow.scoring import Scorer
from riskflow.settings import settings as conf
from tests.unit.lake_cases import DAY, SWAP_MS, Streamed, ids, published, streamed
from tests.unit.test_archive import Record
from tests.unit.test_archive import archived as write_topic

app = typer.Typer()
backtest_command.register(app)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    return streamed(tmp_path_factory.mktemp("home"))


@pytest.fixture
def live(archived: Streamed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The lake's two bundles in a registry, the second one as champion."""
    yield published(archived, monkeypatch)
    conf.cache_clear()


def test_a_forecast_is_held_against_what_the_bundle_then_decided(archived: Streamed, live: Registry) -> None:
    run = archived.run()
    shelf = Shelf(run.plan, run.conf)
    champion = shelf.bundle("champion")
    with pytest.raises(NotReady, match="no backtest of bundle 2 of card_fraud was kept"):
        forecast_error(run, shelf, champion)
    unpublished = replace(champion, manifest={**champion.manifest, "version": 1}, signature=b"", key="")
    told = backtest(run, unpublished, shelf.needs, to_ms=SWAP_MS)
    forecasts.keep(backtest(run, champion, shelf.needs), run.conf.lake_folder)  # not of before it was live
    with pytest.raises(NotReady, match=r"are of events after it began to score.*--bundle 2 --to 2026-"):
        forecast_error(run, shelf, champion)
    forecasts.keep(told, run.conf.lake_folder)
    of_files = replace(told, about=replace(told.about, from_files=True))
    forecasts.keep(replace(of_files, tally=replace(told.tally, last_ms=SWAP_MS - 1)), run.conf.lake_folder)
    found = forecast_error(run, shelf, champion)
    summary = told.summary()
    assert found["forecast"]["to_ms"] == summary["to_ms"]
    assert foretold(run, champion, SWAP_MS) == json.loads(json.dumps(summary))
    mine = (np.asarray(archived.events["_bundle"]) == 2).nonzero()[0]
    action = np.asarray(archived.events["_action"])[mine]
    at_ms = np.asarray(archived.events[TIME])[mine]
    days = (at_ms.max() - at_ms.min()) / DAY
    alerts_per_day = found["figures"]["alerts_per_day"]
    assert alerts_per_day["shown"] == pytest.approx((action > 0).sum() / days)
    assert alerts_per_day["forecast"] == summary["figures"]["alerts_per_day"]
    assert alerts_per_day["error"] == pytest.approx(alerts_per_day["shown"] - alerts_per_day["forecast"])
    parent = Scorer(run.plan, archived.bundles[1]).score(take(archived.events, mine)).action
    assert found["figures"]["flipped_share"]["shown"] == pytest.approx(float((parent != action).mean()))
    printed = CliRunner().invoke(app, ["backtest", "card_fraud", "--errors"], catch_exceptions=False).stdout
    assert re.search(r"alerts per day +[\d.]+ +- +[\d.]+ +-?[\d.]+", printed)
    assert "Forecast and what came" in (html := card(run, champion, published=True))
    assert "Not compared yet" not in html
    with pytest.raises(NotReady, match="no event that bundle 7 has scored"):
        forecast_error(run, shelf, replace(champion, manifest={**champion.manifest, "version": 7}))


def test_a_forecast_is_held_against_what_the_bundle_said_in_shadow(
    archived: Streamed, live: Registry, tmp_path: Path
) -> None:
    """Version 2 shadows version 1 for some days before it decides; what was foretold is of days before those."""
    home = tmp_path / "home"
    shutil.copytree(archived.home, home)
    run = archived.run()
    run = replace(run, conf=run.conf.model_copy(update={"home": home}))
    shelf = Shelf(run.plan, run.conf)
    champion, began_ms = shelf.bundle("champion"), SWAP_MS - 5 * DAY
    told = backtest(run, champion, shelf.needs, to_ms=began_ms)
    forecasts.keep(told, run.conf.lake_folder)
    at_ms = np.asarray(archived.events[TIME])
    heard = ((at_ms >= began_ms) & (at_ms < SWAP_MS)).nonzero()[0]
    part = take(archived.events, heard)
    said = Scorer(run.plan, archived.bundles[2]).score(part)
    decided = np.asarray(part["_action"])
    records = [
        Record(0, i, int(at), json.dumps({
            "event_id": name, "occurred_at": int(at),
            "decided": {"bundle": 1, "score": 0.1, "action": ACTIONS[before]},
            "others": [{"alias": "shadow", "bundle": 2, "score": score, "band": "low", "action": ACTIONS[action]}],
        }).encode(), headers=(("epoch", b"1"),))
        for i, (name, at, before, score, action) in enumerate(zip(
            ids(part), at_ms[heard], decided, said.score.tolist(), said.action, strict=True))
    ]  # fmt: skip
    earlier = take(
        archived.events, np.flatnonzero(at_ms < began_ms)[:1]
    )  # heard as champion beside a canary: no shadow
    records.append(Record(0, len(records), int(at_ms[0]), json.dumps({
        "event_id": ids(earlier)[0], "occurred_at": int(at_ms[0]),
        "decided": {"bundle": 1, "score": 0.1, "action": "approve"},
        "others": [{"alias": "champion", "bundle": 2, "score": 0.5, "band": "low", "action": "review"}],
    }).encode(), headers=(("epoch", b"1"),)))  # fmt: skip
    write_topic(run.plan, run.conf.lake_folder, run.names.shadow, records)
    found = forecast_error(run, shelf, champion)
    assert found["forecast"]["to_ms"] == told.summary()["to_ms"]
    assert (found["shadow"]["events"], found["shown"]["events"]) == (len(heard), (at_ms >= SWAP_MS).sum())
    alerts = found["figures"]["alerts_per_day"]
    days = (at_ms[heard].max() - at_ms[heard].min()) / DAY
    assert alerts["shadow"] == pytest.approx((said.action > 0).sum() / days)
    assert alerts["shadow"] != alerts["shown"]
    assert alerts["error"] == pytest.approx(alerts["shown"] - alerts["forecast"])
    assert found["figures"]["flipped_share"]["shadow"] == pytest.approx(float((said.action != decided).mean()))
    assert re.search(r"forecast +shadow +shown +error", printed_errors(found))


def printed_errors(found: dict[str, Any]) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        report_errors(found)
    return out.getvalue()


def test_before_a_bundle_decides_the_error_is_of_what_it_said_in_shadow() -> None:
    figures = {"alerts_per_day": 3.0, "reviews_per_day": 3.0, "declines_per_day": 0.0,
               "flagged": {"precision": 0.5, "recall": None}}  # fmt: skip
    told = {"figures": figures, "flipped_share": 0.1}
    said = {"figures": {**figures, "alerts_per_day": 5.0}, "flipped_share": 0.4}
    found = forecasts.error(told, None, said)
    assert found["alerts_per_day"] == {"forecast": 3.0, "shadow": 5.0, "shown": None, "error": 2.0}
    assert found["flagged.recall"] == {"forecast": None, "shadow": None, "shown": None, "error": None}


def test_a_canarys_day_is_shown_as_if_all_its_events_had_been_its(
    archived: Streamed, live: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = archived.run()
    shelf = Shelf(run.plan, run.conf)
    everything = past(run, [], {}, shelf.needs)
    champion = shelf.bundle("champion")
    whole = shown(run, shelf, everything.columns, champion)
    at_ms = np.asarray(archived.events[TIME])
    bundle = np.asarray(everything.columns[BUNDLE])
    theirs = (bundle == 2) & (np.arange(len(bundle)) % 10 != 0)  # one in ten stays with the canary
    columns = {**everything.columns, BUNDLE: np.where(theirs, 1, bundle)}
    monkeypatch.setattr("batch.forecast_errors._flips", lambda *_: None)
    part = shown(run, shelf, columns, champion)
    assert part
    assert whole
    mine = np.flatnonzero(columns[BUNDLE] == 2)
    rate = float((np.asarray(columns[ACTION])[mine] > 0).mean())
    span = np.asarray(columns[TIME])[mine]
    events = ((at_ms >= span.min()) & (at_ms <= span.max())).sum()
    days = (span.max() - span.min()) / DAY
    assert part["share"] == pytest.approx(0.1, abs=0.01)
    assert part["figures"]["alerts_per_day"] == pytest.approx(rate * events / days)
    assert part["figures"]["flagged"]["events"] < whole["figures"]["flagged"]["events"]
