"""A bundle beside another system that spoke on `external`: the same events, what each would do, and who is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from batch.external import beside_external
from batch.horse_race import known_events
from cli import models
from riskflow.errors import NotReady
from riskflow.policy import LET_THROUGH
from riskflow.settings import settings
from tests.unit.promote_cases import Installation, installed

OLD = "external:old_engine"
app = typer.Typer()
models.register(app)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.setenv("RISKFLOW_HOME", str(tmp_path))
    settings.cache_clear()
    yield installed(tmp_path, monkeypatch)
    settings.cache_clear()


def spoken(made: Installation, actions: bool = True, let: bool = False) -> dict[str, tuple[float, float, float]]:
    """Champion and old engine have scored all events whose truth is known: event -> truth, ours, theirs.

    The old one knows more, on a scale of its own; it declines one in ten, and raises an alert for one in ten more.
    let: one in ten was let through by the champion, to learn.
    """
    rng = np.random.default_rng(0)
    known, _ = known_events(made.run)
    ours, theirs, out = [], [], {}
    for i, (event, at_ms, fraud) in enumerate(known.select("event_id", "at_ms", "fraud").iter_rows()):
        mine, its = fraud * 0.2 + rng.random() * 0.8, round(1000 * (fraud * 0.6 + rng.random() * 0.4))
        action = ("decline", "review", *["approve"] * 8)[i % 10]
        about: dict[str, Any] = {"event_id": event, "score": mine, "band": "low", "action": "approve", "bundle": 1}
        tried = let and i % 10 == 5
        if tried:
            about |= {"action": "review", "reasons": [f"{LET_THROUGH}0.01"]}
        ours.append((at_ms, json.dumps({**about, "occurred_at": at_ms}).encode()))
        said = {"event_id": event, "score": its, "system": "old_engine", **({"action": action} if actions else {})}
        theirs.append((at_ms, json.dumps(said).encode()))
        if (action != "decline" or not actions) and not tried:
            out[event] = fraud, mine, its
    made._write(made.run.names.scores, ours)
    made._write(made.run.names.external, theirs)
    return out


def test_both_are_measured_on_the_events_that_neither_declines(made: Installation) -> None:
    rows = np.array(list(spoken(made).values()))
    ours, theirs = beside_external(made.run, 1, OLD)
    known, _ = known_events(made.run)
    assert ours["events scored by both"] == theirs["events scored by both"] == len(known)
    assert (ours["alerts, of all"], ours["declines, of all"]) == (0, 0)
    assert theirs["alerts, of all"] == pytest.approx(0.2, abs=0.002)
    assert theirs["declines, of all"] == pytest.approx(0.1, abs=0.002)
    assert ours["events that neither declines and whose truth is known"] == len(rows)
    assert ours["frauds among them"] == rows[:, 0].sum() > 0
    for side, score in ((ours, rows[:, 1]), (theirs, rows[:, 2])):
        assert side["average precision on them"] == pytest.approx(average_precision_score(rows[:, 0], score))
    assert ours["precision of alerts on them"] is None, "it raised none"
    assert ours["recall of alerts on them"] == 0
    assert 0 < theirs["recall of alerts on them"] < 1


def test_what_was_let_through_stands_for_what_is_declined_and_is_left_out_with_it(made: Installation) -> None:
    rows = np.array(list(spoken(made, let=True).values()))
    for side, score in zip(beside_external(made.run, 1, OLD), (rows[:, 1], rows[:, 2]), strict=True):
        assert side["events that neither declines and whose truth is known"] == len(rows)
        assert side["average precision on them"] == pytest.approx(average_precision_score(rows[:, 0], score))


def test_a_system_that_says_no_actions_is_compared_by_its_scores_alone(made: Installation) -> None:
    rows = spoken(made, actions=False)
    ours, theirs = beside_external(made.run, 1, OLD)
    assert theirs["events that neither declines and whose truth is known"] == len(rows)
    assert theirs["average precision on them"] > ours["average precision on them"]
    assert [v for name, v in theirs.items() if "alerts" in name or "declines," in name] == [None] * 4


def test_a_challenger_is_compared_by_what_it_said_beside_the_champion(made: Installation) -> None:
    spoken(made)
    made.raced(7, to_day=5)
    assert 0 < beside_external(made.run, 7, OLD)[0]["events scored by both"] < len(known_events(made.run)[0])


def test_who_has_said_nothing_is_named_with_who_has(made: Installation) -> None:
    spoken(made)
    with pytest.raises(NotReady, match=r"by external:other\. Systems that are archived: external:old_engine\. To"):
        beside_external(made.run, 1, "external:other")
    with pytest.raises(NotReady, match="by bundle 5"):
        beside_external(made.run, 5, OLD)


def test_the_command_shows_them_in_the_order_that_was_asked_for(made: Installation) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["models", "compare", *words])

    spoken(made)
    told = run(OLD, "champion")
    assert told.stdout.splitlines()[0].split() == [OLD, "champion", "(1)"]
    assert "declines, of all" in told.stdout
    answer = json.loads(run("1", OLD, "--json").stdout)
    assert (answer["a"], answer["b"]) == (1, OLD)
    assert answer["facts"]["declines, of all"]["a"] == 0
    both = run(OLD, "external:b")
    assert "both other systems" in str(both.exception)
