"""`riskflow models` and `riskflow keys`, as a person uses them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
import typer
from click.testing import Result
from rich.text import Text
from typer.testing import CliRunner

from batch import race
from batch.bundling import build_bundle
from cli import models
from cli.common import load_plan
from cli.models_common import public_keys
from cli.models_past import history
from riskflow.bundle import Bundle
from riskflow.errors import BundleRefused, NotReady
from riskflow.keys import load_private_key, make_keys
from riskflow.names import Names
from riskflow.policy import Policy
from riskflow.registry import Registry
from riskflow.settings import PROJECT, settings

app = typer.Typer()
models.register(app)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def answer(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RISKFLOW_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    server = fakeredis.FakeServer()

    def connect(*_: Any, **__: Any) -> Any:
        return fakeredis.FakeRedis(server=server)

    monkeypatch.setattr(redis.Redis, "from_url", connect)
    make_keys(settings().keys_folder)
    return Registry(connect(), Names("card_fraud"))


@pytest.fixture
def three(registry: Registry) -> Registry:
    """Three published bundles of rules; the third is the champion."""
    policy = Policy.load(PROJECT / "usecases/card_fraud/policy.yaml")
    made = build_bundle(
        load_plan("card_fraud"), models={}, policy_numbers=policy.start(), metrics={"ap": 0.75, "note": "x"},
        data={"run": "weekly"},
    )  # fmt: skip
    for _ in range(3):
        registry.publish(made, load_private_key(settings().keys_folder), who="ann", why="a reason")
    return registry


def test_keys_are_made_once(home: Path) -> None:
    assert "made" in run("keys").stdout
    first = (home / "keys" / "signing.key").read_bytes()
    again = run("keys")
    assert "kept" in again.stdout
    assert "made /" not in again.stdout
    assert (home / "keys" / "signing.key").read_bytes() == first
    assert (home / "keys" / "hash.key").is_file()


def test_list_shows_versions_and_aliases(three: Registry) -> None:
    rows = answer("models", "list")
    assert [(r["version"], r["aliases"], r["who"]) for r in rows] == [
        (1, [], "ann"),
        (2, [], "ann"),
        (3, ["champion"], "ann"),
    ]
    plain = run("models", "list").stdout.splitlines()
    assert plain[0].split()[:2] == ["version", "aliases"]
    assert plain[3].split()[-5:] == ["rules", "only", "0.75", "-", "-"]
    assert plain[0].index("model") == plain[3].index("rules only")


def test_an_empty_registry_names_the_command(registry: Registry) -> None:
    assert "riskflow models rules --usecase card_fraud" in run("models", "list").stderr
    assert run("models", "list").stdout == ""
    assert isinstance(run("models", "show").exception, NotReady)
    assert isinstance(run("models", "rollback").exception, NotReady)


def test_rules_alone_are_published_without_a_model_and_without_a_history(registry: Registry) -> None:
    moved = answer("models", "rules", "--why", "first day", "--who", "ann")
    assert (moved["alias"], moved["version"], moved["why"], moved["who"]) == ("champion", 1, "first day", "ann")
    shown = answer("models", "show")
    assert (shown["models"], shown["refused"]) == ([], "")
    assert shown["policy"]["review"] is None
    assert [rule["name"] for rule in shown["policy"]["rules"]]
    assert "shadow: nothing -> 2" in run("models", "rules", "--alias", "shadow").stdout


def test_promote_says_what_was_taken_off_with_it(three: Registry) -> None:
    answer("models", "promote", "2", "--alias", "challenger")
    answer("models", "promote", "2", "--alias", "shadow:try")
    promoted = run("models", "promote", "2").stdout
    for line in ("champion: 3 -> 2", "challenger: 2 -> nothing", "shadow:try: 2 -> nothing"):
        assert line in promoted


def test_show_tells_what_a_bundle_is_and_whether_it_loads(three: Registry) -> None:
    shown = answer("models", "show", "2")
    assert (shown["version"], shown["usecase"], shown["refused"]) == (2, "card_fraud", "")
    text = run("models", "show").stdout
    assert "version    3" in text
    assert "loadable   yes" in text


def test_show_says_why_a_bundle_would_be_refused(three: Registry, home: Path) -> None:
    for path in (home / "keys").iterdir():
        path.unlink()
    make_keys(home / "keys")
    assert "foreign key" in answer("models", "show", "2")["refused"]


def test_promote_and_rollback_move_the_champion(three: Registry) -> None:
    moved = answer("models", "promote", "1", "--why", "try again", "--who", "bob")
    assert (moved["version"], moved["previous"], moved["number"], moved["who"]) == (1, 3, 4, "bob")
    answer("models", "promote", "3")
    assert "champion: 3 -> 1" in run("models", "rollback", "--why", "worse").stdout
    champion = three.champion()
    assert champion is not None
    assert (champion.version, champion.why) == (1, "worse")
    assert [m["version"] for m in answer("models", "history")] == [1, 2, 3, 1, 3, 1]
    assert "try again" in run("models", "history", "--alias", "champion").stdout
    assert answer("models", "history", "--alias", "shadow") == []


def test_a_rollback_says_that_the_canary_went_with_it(three: Registry) -> None:
    run("models", "promote", "2", "--alias", "canary", "--share", "1")
    said = run("models", "rollback", "--why", "declines too much").stdout
    assert "champion: 3 -> 2" in said
    assert "canary: 2 -> nothing" in said
    assert {a: m.version for a, m in three.aliases().items()} == {"champion": 2}
    assert re.search(r"canary +off", run("models", "history", "--alias", "canary").stdout)


def test_every_alias_is_promoted_and_retired(three: Registry) -> None:
    assert answer("models", "promote", "2", "--alias", "canary", "--share", "0.01")["share"] == 0.01
    answer("models", "promote", "1", "--alias", "shadow:old", "--why", "how would it do")
    assert "canary 1 %" in run("models", "list").stdout
    assert {r["version"]: r["aliases"] for r in answer("models", "list")} == {
        1: ["shadow:old"], 2: ["canary"], 3: ["champion"],
    }  # fmt: skip
    assert "shadow:old: 1 -> nothing" in run("models", "retire", "shadow:old").stdout
    assert set(three.aliases()) == {"champion", "canary"}
    answer("models", "promote", "2", "--why", "it did well")
    assert {a: m.version for a, m in three.aliases().items()} == {"champion": 2}


def test_what_cannot_be_moved_names_the_way(three: Registry) -> None:
    for words, said in (
        (["retire", "champion"], "riskflow models rollback"),
        (["retire", "shadow"], "points at nothing"),
        (["history", "--alias", "king"], "alias 'king' is not known. Use champion, canary, challenger"),
        (["list", "--usecase", "nope"], "there is no use case 'nope'. There are: card_fraud"),
        (["history", "--usecase", "nope"], "there is no use case 'nope'"),
        (["promote", "2", "--alias", "best"], "challenger:NAME"),
        (["rollback", "--alias", "canary"], "riskflow models retire canary"),
    ):
        assert said in str(run("models", *words).exception), words


def test_history_says_who_was_live_at_a_time_and_what_the_gates_said(three: Registry, home: Path) -> None:
    gate = {"name": "rows", "passed": True, "found": 9, "wanted": "at least 1"}
    (home / "runs/card_fraud/weekly").mkdir(parents=True)
    (home / "runs/card_fraud/weekly/verdict.json").write_text(json.dumps({"gates": [gate]}))
    moves = answer("models", "history")
    assert [(m["version"], m["gates"], m["doubt"]) for m in moves] == [(v, [gate], None) for v in (1, 2, 3)]
    second = {**json.loads(three.client.lindex(three.names.history, 1)), "who": "mallory"}
    three.client.lset(three.names.history, 1, json.dumps(second))
    assert "invalid signature" in answer("models", "history")[1]["doubt"]
    at = datetime.fromtimestamp((moves[2]["at_ms"] + 1) / 1000, UTC).isoformat()
    assert [m["version"] for m in answer("models", "history", "--at", at)] == [3]
    assert answer("models", "history", "--at", "2001-01-01") == []
    told = run("models", "history").stdout
    assert "1 of 1" in told
    assert "move 2 does not count: " in told
    assert moment(moves[0]["from_ms"]) in told.splitlines()[1]
    assert "is not a time" in run("models", "history", "--at", "yesterday").stderr


def test_history_says_by_which_numbers_a_race_was_won(three: Registry, home: Path) -> None:
    won = race.Standing(3, "average_precision", 0.6, 0.5, 0.1, 0.02, 0.18, wins=True)
    lost = race.Standing(1, "average_precision", 0.4, 0.5, -0.1, -0.2, 0.0, wins=False)
    result = race.Result(3, 2, 900, 40, 300, 0.05, [won, lost])
    evidence = {**result.to_json(), "first_ms": 1_772_781_137_905, "last_ms": 1_775_001_435_267}
    (home / "races/card_fraud").mkdir(parents=True)
    (home / "races/card_fraud/race-2-3-4.json").write_text(json.dumps({"winner": 3, "evidence": evidence}))
    found = {m["version"]: m["races"] for m in answer("models", "history")}
    assert (found[2], [r["wins"] for r in found[1]], [r["lower"] for r in found[3]]) == ([], [False], [0.02])
    told = run("models", "history").stdout.splitlines()
    assert (
        "version 3 won its race against champion 2: average_precision +0.1, at least +0.02, on 900 events with "
        "40 frauds, 2026-03-06 to 2026-03-31 (race-2-3-4.json)"
    ) in told
    assert any(line.startswith("version 1 did not win its race against champion 2") for line in told)


def test_history_shows_no_race_of_another_bundle_that_had_the_number_once(three: Registry, home: Path) -> None:
    """In an emptied Redis versions begin anew, and verdicts stay."""
    won = race.Standing(3, "average_precision", 0.6, 0.5, 0.1, 0.02, 0.18, wins=True)
    (home / "races/card_fraud").mkdir(parents=True)
    now = next(move.bundle_hash for move in three.history() if move.version == 3)
    for file, bundle, last_ms in (("race-2-3-a.json", "another", 1), ("race-2-3-b.json", now, 2)):
        evidence = race.Result(3, 2, 900, 40, 300, 0.05, [won]).to_json() | {"bundles": {"3": bundle}}
        kept = {"winner": 3, "evidence": {**evidence, "first_ms": 0, "last_ms": last_ms}}
        (home / "races/card_fraud" / file).write_text(json.dumps(kept))
    found = {m["version"]: m["races"] for m in answer("models", "history")}
    assert [r["file"] for r in found[3]] == ["race-2-3-b.json"]


def test_compare_shows_what_differs(three: Registry, home: Path) -> None:
    made = Bundle.from_bytes(three.raw(3))
    other = replace(made, manifest={**made.manifest, "code": "newer", "metrics": {"ap": 0.8}, "parent": 3})
    three.publish(other, load_private_key(settings().keys_folder), who="ann", why="x", alias="challenger")
    facts = answer("models", "compare", "champion", "challenger")["facts"]
    assert facts["figures ap"] == {"a": 0.75, "b": 0.8}
    assert facts["parent"] == {"a": None, "b": 3}
    assert facts["code"]["b"] == "newer"
    assert not [name for name in facts if name.startswith("feature ")]
    lines = run("models", "compare", "3", "4").stdout.splitlines()
    assert lines[0].split() == ["3", "(3)", "4", "(4)"]
    assert ["figures", "ap", "0.75", "0.8"] in [line.split() for line in lines]


def test_compare_writes_layers_and_times_for_people(three: Registry) -> None:
    made = Bundle.from_bytes(three.raw(3))
    about = {"layers": {"fraud": {"candidate": "forest", "parameters": {}}}, "train_rows": 102726}
    data = {"first_ms": 1_772_781_137_905, "last_ms": 1_775_001_435_267}
    other = replace(made, manifest={**made.manifest, "metrics": about, "data": data})
    three.publish(other, load_private_key(settings().keys_folder), who="ann", why="x", alias="challenger")
    told = [line.split() for line in run("models", "compare", "champion", "challenger").stdout.splitlines()]
    assert ["figures", "layers", "fraud", "candidate", "-", "forest"] in told
    assert ["figures", "train_rows", "-", "102,726"] in told
    assert ["data", "first_ms", "-", "2026-03-06", "07:12:17"] in told


def moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def test_a_terminal_of_120_columns_shows_every_time_whole(
    three: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    why = "it found more of the frauds at compromised terminals, and alerts as often as before"
    three.move(
        "champion", 1, who="a.scientist@bank.example", why=why, private_key=load_private_key(settings().keys_folder),
        public_keys=public_keys(),
    )  # fmt: skip
    history(as_json=False)
    told = Text.from_ansi(capsys.readouterr().out).plain
    for move in three.history():
        assert moment(move.at_ms) in told
    assert max(map(len, told.splitlines())) <= 120
    assert "…" not in told
    assert why.replace(" ", "") in "".join(line[-14:] for line in told.splitlines()).replace(" ", "")


def test_lineage_goes_back_to_the_first(three: Registry) -> None:
    made = Bundle.from_bytes(three.raw(3))
    for parent in (3, 4):
        child = replace(made, manifest={**made.manifest, "parent": parent})
        three.publish(child, load_private_key(settings().keys_folder), who="ann", why="x")
    assert [c["version"] for c in answer("models", "lineage")] == [5, 4, 3]
    three.client.delete(three.names.bundle(3))
    assert [c["version"] for c in answer("models", "lineage", "5")] == [5, 4]
    (live,) = answer("models", "lineage", "4")[0]["live"]
    assert re.fullmatch(r"champion \d{4}-\d\d-\d\d \d\d:\d\d to \d{4}-\d\d-\d\d \d\d:\d\d", live)
    assert re.search(r"champion \S+ \S+ to now", run("models", "lineage", "5").stdout)
    assert isinstance(run("models", "lineage", "3").exception, NotReady)


def test_a_bundle_that_workers_would_refuse_is_not_promoted(three: Registry) -> None:
    raw = bytearray(three.raw(2))
    raw[len(raw) // 2] ^= 1
    three.client.set(three.names.bundle(2), bytes(raw))
    assert isinstance(run("models", "promote", "2").exception, BundleRefused)
    assert isinstance(run("models", "promote", "7").exception, NotReady)
    champion = three.champion()
    assert champion is not None
    assert champion.version == 3


def test_redis_that_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISKFLOW_REDIS_URL", "redis://127.0.0.1:1/0")
    settings.cache_clear()
    found = run("models", "list").exception
    assert isinstance(found, NotReady)
    assert "riskflow up" in str(found)
