"""What a head pins, which roster takes its place, and what a worker offers while the registry moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from cryptography.hazmat.primitives import serialization as form

from riskflow.bundle import Bundle
from riskflow.moves import CANARY, CHAMPION
from riskflow.names import Names
from riskflow.registry import Registry
from riskflow.registry_reader import AsyncRegistry
from stream import swap as swapping
from stream.roster import Pin, Roster
from stream.swap import Swap
from tests.unit.bundle_cases import KEY, bundle, plan

NAMES = Names("tried")
BY: dict[str, Any] = {"who": "ann", "why": "to try", "private_key": KEY}
ONE, TWO = Pin(CHAMPION, 1, "h1", 1), Pin(CHAMPION, 2, "h2", 2)
THREE, FOUR = Pin(CANARY, 3, "h3", 3, 0.1), Pin("shadow", 4, "h4", 4)
WHOLE = Roster(TWO, THREE, (FOUR,), 7)


# ---- what a head says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roster", [Roster(ONE, number=1), Roster(TWO, THREE, number=3), WHOLE])
def test_a_roster_is_read_as_it_was_stored(roster: Roster) -> None:
    assert Roster.read(roster.stored(17)) == roster
    assert roster.stored(17)["from"] == 17


def test_a_head_of_before_there_were_rosters_names_the_champion_alone() -> None:
    assert Roster.read({CHAMPION: {"version": 1, "hash": "h1", "number": 5}, "from": 9}) == Roster(
        Pin(CHAMPION, 1, "h1", 5), number=5
    )
    assert Roster.read({}) is None


def test_a_newer_registry_replaces_and_an_older_one_never() -> None:
    assert replace(WHOLE, number=8).replaces(WHOLE)
    assert not replace(WHOLE, number=6, others=()).replaces(WHOLE)
    assert not WHOLE.replaces(WHOLE)


def test_of_one_registry_only_a_whole_roster_replaces() -> None:
    """Or a worker that has just started would take shadows out, to put them in again a moment later."""
    less = WHOLE.only(lambda pin: pin != FOUR)
    assert less.replaces(WHOLE)
    assert not replace(less, whole=False).replaces(WHOLE)
    assert replace(less, whole=False, number=8).replaces(WHOLE)


# ---- what a worker offers --------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> Registry:
    """Four versions of one bundle, without an alias."""
    made = Registry(fakeredis.FakeRedis(server=fakeredis.FakeServer()), NAMES)
    for i in range(4):
        made.add(named(bundle(), f"code {i}"), KEY, who="ann")
    return made


def named(content: Bundle, code: str) -> Bundle:
    return replace(content, manifest={**content.manifest, "code": code})


@pytest.fixture
async def swap(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Swap]:
    """Of a worker that has not looked yet. Golden rows are left out: what they say is not the question here."""
    pem = KEY.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "team.pub").write_bytes(pem)
    client = fakeredis.FakeAsyncRedis(server=registry.client.connection_pool.connection_kwargs["server"])
    monkeypatch.setattr(swapping, "check_golden", lambda *_: None)
    yield Swap(plan(), AsyncRegistry(client, NAMES, tmp_path), 1.0)
    await client.aclose()


def versions(roster: Roster | None) -> dict[str, int]:
    assert roster is not None
    return {pin.alias: pin.version for pin in (roster.champion, *roster.beside)}


async def offered(swap: Swap) -> dict[str, int]:
    await swap._look()
    return versions(await asyncio.wait_for(swap.newest(), 1))


async def test_all_that_stand_are_offered(registry: Registry, swap: Swap) -> None:
    registry.move(CHAMPION, 1, **BY)
    registry.move(CANARY, 2, share=0.1, **BY)
    registry.move("shadow", 3, **BY)
    registry.move("challenger:x", 4, **BY)
    assert await offered(swap) == {CHAMPION: 1, CANARY: 2, "challenger:x": 4, "shadow": 3}
    newest = await swap.newest()
    assert newest.whole
    assert (newest.number, newest.canary.share if newest.canary else None) == (4, 0.1)
    registry.retire("shadow", **BY)
    assert await offered(swap) == {CHAMPION: 1, CANARY: 2, "challenger:x": 4}
    assert (await swap.newest()).number == 5


@pytest.mark.parametrize("harm", ["gone", "other bytes", "another feature"])
@pytest.mark.parametrize("alias", [CANARY, "shadow"])
async def test_what_cannot_be_used_is_left_out_until_it_moves(
    registry: Registry, swap: Swap, alias: str, harm: str
) -> None:
    registry.move(CHAMPION, 1, **BY)
    share = {"share": 0.1} if alias == CANARY else {}
    bad = of_another_plan(registry) if harm == "another feature" else 2
    registry.move(alias, bad, **share, **BY)
    harmed(registry, bad, harm)
    assert await offered(swap) == {CHAMPION: 1}
    assert (await swap.newest()).whole
    registry.move(alias, 3, **share, **BY)
    assert await offered(swap) == {CHAMPION: 1, alias: 3}


def of_another_plan(registry: Registry) -> int:
    """A bundle that needs a feature as this code does not have it."""
    good = Bundle.from_bytes(registry.raw(1))
    other = replace(good, manifest={**good.manifest, "needed": {**good.needed, "amount": "another"}})
    return registry.add(other, KEY, who="ann").version


def harmed(registry: Registry, version: int, how: str) -> None:
    if how == "gone":
        registry.client.delete(NAMES.bundle(version))
    if how == "other bytes":
        registry.client.set(NAMES.bundle(version), registry.raw(version)[:-9] + bytes(9))


async def test_a_champion_that_cannot_be_used_changes_nothing_but_others_move_on(
    registry: Registry, swap: Swap
) -> None:
    registry.move(CHAMPION, 1, **BY)
    assert await offered(swap) == {CHAMPION: 1}
    registry.move(CHAMPION, of_another_plan(registry), **BY)
    registry.move("shadow", 3, **BY)
    assert await offered(swap) == {CHAMPION: 1, "shadow": 3}


async def test_without_a_champion_nothing_is_offered(registry: Registry, swap: Swap) -> None:
    registry.move("shadow", 3, **BY)
    await swap._look()
    assert not swap.found


async def test_one_that_failed_while_it_scored_is_left_out_until_it_moves(registry: Registry, swap: Swap) -> None:
    registry.move(CHAMPION, 1, **BY)
    registry.move("shadow", 2, **BY)
    await swap._look()
    [pin] = (await swap.newest()).others
    swap.leave_out(pin, "it failed")
    assert versions(await swap.newest()) == {CHAMPION: 1}
    assert await offered(swap) == {CHAMPION: 1}
    assert versions(await swap.usable(Roster(Pin(CHAMPION, 1, hash_of(registry, 1), 1), None, (pin,), 2))) == {
        CHAMPION: 1
    }
    registry.move("shadow", 2, **BY)
    assert await offered(swap) == {CHAMPION: 1, "shadow": 2}


async def test_a_pinned_roster_keeps_those_whose_aliases_have_moved_on(registry: Registry, swap: Swap) -> None:
    pins = [Pin(CHAMPION, 1, hash_of(registry, 1), 1), Pin("shadow", 2, hash_of(registry, 2), 2)]
    gone = Pin("shadow:gone", 9, "no such hash", 3)
    found = await swap.usable(Roster(pins[0], None, (pins[1], gone), 3))
    assert versions(found) == {CHAMPION: 1, "shadow": 2}
    assert await swap.usable(Roster(replace(gone, alias=CHAMPION), None, (), 3)) is None


def hash_of(registry: Registry, version: int) -> str:
    return Bundle.from_bytes(registry.raw(version)).content_hash


async def test_the_way_back_needs_no_golden_rows(
    registry: Registry, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        registry.move(CHAMPION, version, **BY)
        await swap._look()
    monkeypatch.setattr(swapping, "check_golden", lambda *_: 1 / 0)
    monkeypatch.setattr(swapping, "Scorer", lambda *_: 1 / 0)
    registry.rollback(**BY)
    assert await offered(swap) == {CHAMPION: 1}


async def test_the_way_back_is_checked_all_the_same(registry: Registry, swap: Swap) -> None:
    for version in (1, 2):
        registry.move(CHAMPION, version, **BY)
        await swap._look()
    registry.rollback(**BY)
    harmed(registry, 1, "other bytes")
    assert await offered(swap) == {CHAMPION: 2}


async def test_a_new_champion_does_not_wait_for_a_shadow_that_loads(
    registry: Registry, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.move(CHAMPION, 1, **BY)
    registry.move("shadow", 4, **BY)
    await swap._look()
    registry.move("shadow:slow", 3, **BY)
    registry.move(CHAMPION, 2, **BY)
    verify, seen = swap._verify, []

    async def slowly(pin: Pin) -> None:
        if pin.alias == "shadow:slow":
            newest = await swap.newest()
            seen.append((versions(newest), newest.whole))
        await verify(pin)

    monkeypatch.setattr(swap, "_verify", slowly)
    assert await offered(swap) == {CHAMPION: 2, "shadow": 4, "shadow:slow": 3}
    assert seen == [({CHAMPION: 2, "shadow": 4}, False)]


async def test_a_whole_roster_stays_loaded(registry: Registry, swap: Swap) -> None:
    for i in range(30):
        registry.add(named(bundle(), f"more {i}"), KEY, who="ann")
    registry.move(CHAMPION, 1, **BY)
    registry.move(CANARY, 2, share=0.1, **BY)
    for i in range(8):
        registry.move(f"shadow:s{i}", 3 + i, **BY)
    await swap._look()
    assert {live.version for live in swap._loaded.values()} == set(range(1, 11))
    for version in range(11, 31):
        registry.move("shadow:s0", version, **BY)
        await swap._look()
        newest = await swap.newest()
        for pin in (newest.champion, *newest.beside):
            await swap.pinned(pin)
    assert set(range(1, 3)) | set(range(4, 11)) | {30} <= {live.version for live in swap._loaded.values()}
    assert len(swap._loaded) <= swapping.KEPT
