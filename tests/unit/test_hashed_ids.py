"""A hashed entity: raw ids stay out of everything behind the intake."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from riskflow.columns import Text
from riskflow.declare import Count, Entity, Feed, Windows
from riskflow.errors import NotReady
from riskflow.events import Decoder
from riskflow.hashkey import make_hash_key, read_hash_key
from riskflow.plan import Plan
from riskflow.usecase import from_modules

NOW_MS = 1_772_000_000_000


@pytest.fixture
def plan() -> Plan:
    person = Entity("person_id", hashed=True)
    module = types.ModuleType("made_up")
    module.person = person  # type: ignore[attr-defined]
    module.logins = Feed("logins", id="login_id", at="at", fields={"score": float})  # type: ignore[attr-defined]
    module.activity = Windows(by=person, over=["1d"], events=[Count()])  # type: ignore[attr-defined]
    return Plan.of(from_modules("logins", Path("."), [module]))


def test_the_id_in_the_columns_is_a_keyed_hash(plan: Plan, tmp_path: Path) -> None:
    make_hash_key(tmp_path)
    ids = [hashed(plan, read_hash_key(plan, tmp_path), name) for name in ("alice", "alice", "bob", 7, "7")]
    assert "alice" not in ids[0]
    assert ids[0] == ids[1] != ids[2]
    assert ids[3] == ids[4]


def test_another_key_gives_other_hashes(plan: Plan, tmp_path: Path) -> None:
    make_hash_key(tmp_path / "a")
    make_hash_key(tmp_path / "b")
    assert hashed(plan, read_hash_key(plan, tmp_path / "a"), "x") != hashed(
        plan, read_hash_key(plan, tmp_path / "b"), "x"
    )


def test_a_missing_key_names_the_command(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="riskflow keys"):
        read_hash_key(plan, tmp_path)


def test_the_key_is_made_once(tmp_path: Path) -> None:
    assert make_hash_key(tmp_path)
    before = (tmp_path / "hash.key").read_text()
    assert not make_hash_key(tmp_path)
    assert (tmp_path / "hash.key").read_text() == before
    assert (tmp_path / "hash.key").stat().st_mode & 0o777 == 0o600


def hashed(plan: Plan, key: bytes, name: object) -> str:
    decoder = Decoder(plan, plan.scored, key)
    message = json.dumps({"login_id": "l", "at": NOW_MS, "person_id": name, "score": 1.0}).encode()
    ids = decoder.columns([decoder.message(message, NOW_MS)])["person_id"]
    assert isinstance(ids, Text)
    return ids.strings()[0] or ""
