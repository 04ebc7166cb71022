"""`riskflow models` and `riskflow keys`, as a person uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
import typer
from click.testing import Result
from typer.testing import CliRunner

from batch.bundling import build_bundle
from cli import models
from cli.common import load_plan
from riskflow.errors import BundleRefused, NotReady, RiskflowError
from riskflow.keys import load_private_key, load_public_keys, make_keys
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
        load_plan("card_fraud"), models={}, policy_numbers=policy.start(), metrics={"ap": 0.75, "note": "x"}
    )
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
    assert plain[0].split("\t")[:2] == ["version", "aliases"]
    assert "rules only\tap=0.75" in plain[3]


def test_an_empty_registry_names_the_command(registry: Registry) -> None:
    assert "riskflow retrain card_fraud" in run("models", "list").stderr
    assert run("models", "list").stdout == ""
    assert isinstance(run("models", "show").exception, NotReady)
    assert isinstance(run("models", "rollback").exception, NotReady)


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


@pytest.mark.parametrize("alias", ["challenger", "shadow", "canary"])
def test_an_alias_that_the_stream_does_not_read_is_not_moved(three: Registry, alias: str) -> None:
    share = ["--share", "0.1"] if alias == "canary" else []
    for words in (["promote", "2", *share], ["rollback"]):
        refused = run("models", *words, "--alias", alias).exception
        assert isinstance(refused, RiskflowError)
        assert "workers score with the champion only" in str(refused)
    assert set(three.aliases()) == {"champion"}
    key, keys = load_private_key(settings().keys_folder), load_public_keys(settings().keys_folder)
    moved = three.move(
        alias, 2, who="ann", why="later", private_key=key, public_keys=keys, share=0.1 if share else None
    )
    assert three.aliases()[alias] == moved


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
