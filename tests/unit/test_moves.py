"""Aliases over time: who was live when, what is taken off with what, and that no bad entry takes the others down."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from cryptography.hazmat.primitives import serialization as form
from hypothesis import given
from hypothesis import strategies as st

from riskflow.errors import NotReady, RiskflowError
from riskflow.keys import public_keys_of
from riskflow.moves import (
    CANARY,
    CHAMPION,
    MOST_BESIDE,
    RETIRED,
    Move,
    Standing,
    check_alias,
    doubts,
    live_at,
    made_with,
    periods,
    standing,
)
from riskflow.names import Names
from riskflow.registry import Registry
from riskflow.registry_reader import AsyncRegistry
from tests.unit.bundle_cases import KEY, rules_only

NAMES = Names("tried")
KEYS = public_keys_of(KEY)
BY: dict[str, Any] = {"who": "ann", "why": "to try", "private_key": KEY}


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def registry(server: fakeredis.FakeServer) -> Registry:
    """Four versions; the last one is champion."""
    made = Registry(fakeredis.FakeRedis(server=server), NAMES)
    for _ in range(4):
        made.publish(rules_only(), KEY, who="ann", why="new")
    return made


@pytest.fixture
def worker(server: fakeredis.FakeServer, tmp_path: Path) -> AsyncRegistry:
    pem = KEY.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "team.pub").write_bytes(pem)
    return AsyncRegistry(fakeredis.FakeAsyncRedis(server=server), NAMES, tmp_path)


def stands(registry: Registry) -> dict[str, int]:
    return {alias: move.version for alias, move in registry.aliases().items()}


def checked(registry: Registry) -> Standing:
    """Where every alias stands, as somebody sees it who has taken no move yet."""
    entries = {alias.decode(): entry for alias, entry in registry.client.hgetall(NAMES.aliases).items()}
    return standing(entries, KEYS, NAMES)


# ---- moving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["challenger", "challenger:forest", "shadow", "shadow:no_amount"])
def test_challengers_and_shadows_have_names(registry: Registry, alias: str) -> None:
    registry.move(alias, 1, **BY)
    assert stands(registry) == {CHAMPION: 4, alias: 1}


@pytest.mark.parametrize("alias", ["best", "shadow:", "shadow:A", "shadow:a:b", "champion:x", "canary:x", "Shadow", ""])
def test_other_names_are_refused(alias: str) -> None:
    with pytest.raises(RiskflowError, match="not known"):
        check_alias(alias)


def test_an_alias_is_taken_off_by_a_signed_move(registry: Registry) -> None:
    registry.move("shadow", 1, **BY)
    move = registry.retire("shadow", **BY)
    assert (move.version, move.previous, move.number) == (RETIRED, 1, 6)
    assert doubts(registry.history(), KEYS, NAMES) == {}
    assert stands(registry) == {CHAMPION: 4}
    assert checked(registry).number == 6
    with pytest.raises(NotReady, match="points at nothing"):
        registry.retire("shadow", **BY)
    with pytest.raises(RiskflowError, match="cannot be taken off"):
        registry.retire(CHAMPION, **BY)
    assert registry.move("shadow", 2, **BY).previous is None


def test_a_canary_arrives_in_one_transaction(registry: Registry) -> None:
    registry.move(CANARY, 2, share=0.1, **BY)
    registry.move("challenger", 2, **BY)
    registry.move("shadow", 1, **BY)
    seen: list[dict[str, int]] = []
    writing = registry.client.publish
    registry.client.publish = lambda *words: (seen.append(stands(registry)), writing(*words))
    move = registry.move(CHAMPION, 2, **BY)
    assert (move.alias, move.version, move.previous) == (CHAMPION, 2, 4)
    assert seen == [{CHAMPION: 2, "shadow": 1}]
    assert [(m.alias, m.version) for m in registry.history()[-3:]] == [(CHAMPION, 2), (CANARY, 0), ("challenger", 0)]
    assert [m.number for m in registry.history()] == list(range(1, 11))


def test_moves_of_two_aliases_at_once_lose_nothing(
    server: fakeredis.FakeServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading where the canary stands and crowning it, somebody takes it off."""
    registry.move(CANARY, 2, share=0.1, **BY)
    other = Registry(fakeredis.FakeRedis(server=server), NAMES)
    signed, met = Move.signed, []

    def signing(move: Move, key: Any) -> Move:
        if not met:
            met.append(1)
            other.retire(CANARY, **BY)
        return signed(move, key)

    monkeypatch.setattr(Move, "signed", signing)
    registry.move(CHAMPION, 2, **BY)
    assert stands(registry) == {CHAMPION: 2}
    assert [(m.alias, m.version, m.number) for m in registry.history()[-2:]] == [(CANARY, 0, 6), (CHAMPION, 2, 7)]


def test_so_many_stand_beside_the_champion_and_no_more(registry: Registry) -> None:
    for i in range(MOST_BESIDE):
        registry.move(f"shadow:s{i}", 1, **BY)
    registry.move("shadow:s0", 2, **BY)
    with pytest.raises(RiskflowError, match="riskflow models retire shadow:s0"):
        registry.move("challenger", 1, **BY)
    registry.retire("shadow:s3", **BY)
    registry.move("challenger", 1, **BY)


def test_only_the_champion_is_rolled_back(registry: Registry) -> None:
    registry.move(CANARY, 2, share=0.1, **BY)
    with pytest.raises(RiskflowError, match="riskflow models retire canary"):
        registry.rollback(alias=CANARY, **BY)
    assert registry.rollback(**BY).version == 3


def test_a_rollback_takes_the_canary_off_in_one_transaction(registry: Registry) -> None:
    registry.move(CANARY, 2, share=1.0, **BY)
    registry.move("shadow", 1, **BY)
    seen: list[dict[str, int]] = []
    writing = registry.client.publish
    registry.client.publish = lambda *words: (seen.append(stands(registry)), writing(*words))
    move = registry.rollback(**BY)
    assert (move.alias, move.version) == (CHAMPION, 3)
    assert seen == [{CHAMPION: 3, "shadow": 1}]
    assert [(m.alias, m.version) for m in registry.history()[-2:]] == [(CHAMPION, 3), (CANARY, RETIRED)]
    assert made_with(move, registry.history()) == registry.history()[-2:]
    assert doubts(registry.history(), KEYS, NAMES) == {}


def test_moves_of_other_transactions_are_not_told_with_a_move(registry: Registry) -> None:
    registry.move(CANARY, 2, share=0.1, **BY)
    move = registry.rollback(**BY)
    registry.move("shadow", 1, **BY)
    registry.retire("shadow", who="ann", why="enough", private_key=KEY)
    assert [m.alias for m in made_with(move, registry.history())] == [CHAMPION, CANARY]
    shadow = registry.history("shadow")[0]
    assert made_with(shadow, registry.history()) == [shadow]


def test_a_first_champion_cannot_go_back_and_the_way_to_take_its_canary_off_is_named() -> None:
    registry = Registry(fakeredis.FakeRedis(), NAMES)
    registry.publish(rules_only(), KEY, who="ann", why="new")
    registry.publish(rules_only(), KEY, who="ann", why="new", alias=None)
    registry.move(CANARY, 2, share=1.0, **BY)
    with pytest.raises(NotReady, match="riskflow models retire canary"):
        registry.rollback(**BY)


# ---- readers ---------------------------------------------------------------------------------------------------------


async def test_a_bad_entry_takes_no_other_alias_down(registry: Registry, worker: AsyncRegistry) -> None:
    registry.move(CANARY, 2, share=0.1, **BY)
    registry.move("shadow", 1, **BY)
    forged = dataclasses.replace(registry.aliases()[CANARY], version=1)
    for entry in (b"junk", forged.to_json(), registry.client.hget(NAMES.aliases, "shadow")):
        registry.client.hset(NAMES.aliases, CANARY, entry)
        for found in (checked(registry), await worker.roster()):
            assert {a: m.version for a, m in found.live.items()} == {CHAMPION: 4, "shadow": 1}
            assert list(found.refused) == [CANARY]
    assert registry.retire("shadow", **BY).version == RETIRED, "garbage under one alias keeps no other from moving"


async def test_of_an_entry_that_is_refused_the_one_before_stays(registry: Registry, worker: AsyncRegistry) -> None:
    first = registry.move("shadow", 1, **BY)
    assert (await worker.roster()).live["shadow"] == first
    registry.move("shadow", 2, **BY)
    second = (await worker.roster()).live["shadow"]
    registry.client.hset(NAMES.aliases, "shadow", first.to_json())
    found = await worker.roster()
    assert found.live["shadow"] == second
    assert "an old entry came back" in found.refused["shadow"]
    assert found.number == second.number


async def test_what_has_not_changed_is_not_checked_again(
    registry: Registry, worker: AsyncRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await worker.roster()
    monkeypatch.setattr("riskflow.registry_reader.load_public_keys", lambda _: 1 / 0)
    assert await worker.roster() is found


# ---- history ---------------------------------------------------------------------------------------------------------

MOVES = st.lists(
    st.tuples(st.sampled_from([CHAMPION, CANARY, "shadow"]), st.integers(0, 3), st.integers(-5, 20)), max_size=12
)


def made_up(steps: list[tuple[str, int, int]]) -> list[Move]:
    """A history; clocks of publishers may be behind."""
    at_ms, out = 1000, []
    for number, (alias, version, ms) in enumerate(steps, 1):
        at_ms += ms
        out.append(Move("tried", alias, version, f"h{version}", number, at_ms, "ann", "why"))
    return out


@given(MOVES, st.integers(0, 300))
def test_who_was_live_is_what_the_last_move_before_says(steps: list[tuple[str, int, int]], after_ms: int) -> None:
    moves, at_ms = made_up(steps), 950 + after_ms
    expected: dict[str, int] = {}
    newest = 0
    for move in moves:
        newest = max(newest, move.at_ms)
        if newest <= at_ms:
            expected[move.alias] = move.version
    found = {alias: move.version for alias, move in live_at(moves, at_ms).items()}
    assert found == {alias: version for alias, version in expected.items() if version}


@given(MOVES)
def test_periods_of_an_alias_follow_each_other(steps: list[tuple[str, int, int]]) -> None:
    moves = made_up(steps)
    for alias in (CHAMPION, CANARY, "shadow"):
        mine = [p for p in periods(moves) if p.move.alias == alias]
        for before, after in pairwise(mine):
            assert before.to_ms is not None
            assert before.from_ms <= before.to_ms <= after.from_ms
        assert len(mine) == sum(m.version != RETIRED for m in moves if m.alias == alias)


def test_live_at_of_a_registry(registry: Registry) -> None:
    first, second = registry.history()[0], registry.history()[3]
    assert registry.live_at(first.at_ms - 1) == {}
    assert registry.live_at(second.at_ms + 1) == {CHAMPION: second}


def test_a_changed_history_is_doubted(registry: Registry) -> None:
    forged = dataclasses.replace(registry.history()[1], who="mallory")
    moves = [registry.history()[0], forged, registry.history()[0], registry.history()[3]]
    found = doubts(moves, KEYS, NAMES)
    assert "invalid signature" in found.pop(1)
    assert "an old entry came back" in found.pop(2)
    assert found == {}
