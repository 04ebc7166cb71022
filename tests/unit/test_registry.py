"""The registry: versions that never collide, moves that nobody can forge, repeat or copy, and the way back."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from riskflow.bundle import Bundle, sign, verify_signature
from riskflow.errors import BundleRefused, NotReady, RiskflowError
from riskflow.keys import load_private_key, load_public_keys, make_keys, public_keys_of
from riskflow.moves import Move, check_move, previous_version
from riskflow.names import Names
from riskflow.registry import Moved, Overtaken, Registry
from riskflow.registry_reader import AsyncRegistry
from tests.unit.bundle_cases import KEY, bundle, plan, rules_only

NAMES = Names("tried")
KEYS = public_keys_of(KEY)


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def registry(server: fakeredis.FakeServer) -> Registry:
    return Registry(fakeredis.FakeRedis(server=server), NAMES)


@pytest.fixture
def worker(server: fakeredis.FakeServer, tmp_path: Path) -> AsyncRegistry:
    """A reader that holds the public key only."""
    pem = KEY.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "team.pub").write_bytes(pem)
    return AsyncRegistry(fakeredis.FakeAsyncRedis(server=server), NAMES, tmp_path)


def publish(registry: Registry, why: str = "better", **more: Any) -> Bundle:
    return registry.publish(rules_only(), KEY, who="ann", why=why, **more)


# ---- versions --------------------------------------------------------------------------------------------------------


def test_versions_rise_and_the_champion_follows(registry: Registry) -> None:
    assert registry.champion() is None
    assert [publish(registry).version for _ in range(3)] == [1, 2, 3]
    champion = registry.champion()
    assert champion is not None
    assert (champion.version, champion.number, champion.previous, champion.who) == (3, 3, 2, "ann")
    assert list(registry.versions()) == [1, 2, 3]


def test_two_publishers_at_once_get_two_versions(server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Registry(fakeredis.FakeRedis(server=server), NAMES) for _ in range(2))
    others: list[int] = []

    def signing(found: Bundle, key: Ed25519PrivateKey) -> Bundle:
        if not others:  # between reading the next version and writing it, somebody else publishes
            others.append(0)
            others[0] = two.add(rules_only(), KEY, who="bob").version
        return sign(found, key)

    monkeypatch.setattr("riskflow.registry.sign", signing)
    mine = one.add(rules_only(), KEY, who="ann")
    assert (others, mine.version) == ([1], 2)
    assert [one.versions()[v]["who"] for v in (1, 2)] == ["bob", "ann"]


def test_two_moves_at_once_get_two_numbers(server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Registry(fakeredis.FakeRedis(server=server), NAMES) for _ in range(2))
    publish(one)
    publish(one)
    signed, met = Move.signed, []

    def signing(move: Move, key: Ed25519PrivateKey) -> Move:
        if not met:
            met.append(1)
            two.move("challenger", 1, who="bob", why="first", private_key=KEY)
        return signed(move, key)

    monkeypatch.setattr(Move, "signed", signing)
    one.move("shadow", 2, who="ann", why="second", private_key=KEY)
    assert [m.number for m in one.history()] == [1, 2, 3, 4]
    assert {a: m.number for a, m in one.aliases().items()} == {"champion": 2, "challenger": 3, "shadow": 4}


@pytest.mark.parametrize("moment", ["before the transaction", "within it"])
def test_no_alias_is_moved_to_a_bundle_that_is_dropped_meanwhile(
    server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    one, two = (Registry(fakeredis.FakeRedis(server=server), NAMES) for _ in range(2))
    publish(one)
    publish(one)
    place = "riskflow.registry.verify_signature" if moment == "before the transaction" else "riskflow.moves.Move.signed"
    done = verify_signature if moment == "before the transaction" else Move.signed

    def meanwhile(*words: Any) -> Any:
        two.client.delete(NAMES.bundle(1))
        return done(*words)

    monkeypatch.setattr(place, meanwhile)
    with pytest.raises(NotReady, match="has no bundle 1"):
        one.move("champion", 1, who="ann", why="back", private_key=KEY)
    assert one.aliases()["champion"].version == 2


@pytest.mark.parametrize("moment", ["before the transaction", "within it"])
def test_who_looked_before_somebody_moved_an_alias_moves_none(
    server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    one, two = (Registry(fakeredis.FakeRedis(server=server), NAMES) for _ in range(2))
    assert one.number() == 0
    publish(one)
    one.move("challenger", 1, who="ann", why="looked", private_key=KEY, since=1)
    seen, signed, met = one.number(), Move.signed, []

    def meanwhile() -> None:
        if not met:
            met.append(1)
            two.move("shadow", 1, who="bob", why="first", private_key=KEY)

    def signing(move: Move, key: Ed25519PrivateKey) -> Move:
        meanwhile()
        return signed(move, key)

    if moment == "before the transaction":
        meanwhile()
    else:
        monkeypatch.setattr(Move, "signed", signing)
    with pytest.raises(Moved, match="move 3 came in between"):
        one.retire("challenger", who="ann", why="late", private_key=KEY, since=seen)
    with pytest.raises(Moved, match="riskflow models history"):
        one.move("champion", 1, who="ann", why="late", private_key=KEY, since=seen)
    assert {a: m.number for a, m in one.aliases().items()} == {"champion": 1, "challenger": 2, "shadow": 3}


def test_an_overtaken_publisher_leaves_the_champion_alone(registry: Registry) -> None:
    slow = registry.add(rules_only(), KEY, who="slow")
    publish(registry)
    with pytest.raises(Overtaken, match="riskflow models promote 1"):
        registry._move("champion", slow, KEY, "slow", "late", forward=True)
    champion = registry.champion()
    assert champion is not None
    assert champion.version == 2


def test_a_bundle_may_be_stored_without_an_alias(registry: Registry) -> None:
    assert publish(registry, alias=None).version == 1
    assert registry.champion() is None
    assert registry.history() == []


def test_nothing_in_the_registry_expires(registry: Registry) -> None:
    publish(registry)
    keys = registry.client.keys("*")
    assert sorted(k.decode() for k in keys) == [
        "{tried}:aliases", "{tried}:bundle:1", "{tried}:history", "{tried}:versions",
    ]  # fmt: skip
    assert {registry.client.ttl(k) for k in keys} == {-1}


def test_the_stored_bundle_is_signed_under_its_version(registry: Registry) -> None:
    publish(registry)
    stored = Bundle.from_bytes(registry.raw(1))
    assert stored.version == 1
    assert stored.key in KEYS
    with pytest.raises(NotReady, match="no bundle 9"):
        registry.raw(9)


# ---- moving and rolling back -----------------------------------------------------------------------------------------


def versions_of(registry: Registry) -> list[int]:
    return [m.version for m in registry.history("champion")]


def test_rollback_goes_back_step_by_step(registry: Registry) -> None:
    for _ in range(3):
        publish(registry)
    for _ in range(2):
        registry.rollback(who="ann", why="worse", private_key=KEY)
    assert versions_of(registry) == [1, 2, 3, 2, 1]
    with pytest.raises(NotReady, match="earlier version"):
        registry.rollback(who="ann", why="worse", private_key=KEY)


def test_publishing_goes_on_after_a_rollback(registry: Registry) -> None:
    publish(registry)
    publish(registry)
    registry.rollback(who="ann", why="worse", private_key=KEY)
    assert publish(registry).version == 3
    assert registry.previous("champion", KEYS) == 1


def test_previous_of_nothing() -> None:
    with pytest.raises(NotReady):
        previous_version([], "champion")


def test_a_canary_takes_a_share_and_others_none(registry: Registry) -> None:
    publish(registry)
    moved = registry.move("canary", 1, who="a", why="b", private_key=KEY, share=0.05)
    assert moved.share == 0.05
    for alias, share in (("canary", None), ("canary", 1.5), ("champion", 0.5)):
        with pytest.raises(RiskflowError, match="share"):
            registry.move(alias, 1, who="a", why="b", private_key=KEY, share=share)
    with pytest.raises(RiskflowError, match="alias 'best' is not known"):
        registry.move("best", 1, who="a", why="b", private_key=KEY)


def test_a_bundle_under_a_wrong_version_is_not_promoted(registry: Registry) -> None:
    publish(registry)
    publish(registry)
    registry.client.set(NAMES.bundle(2), registry.raw(1))
    with pytest.raises(BundleRefused, match="under version 2 stands bundle 1"):
        registry.move("champion", 2, who="a", why="b", private_key=KEY)


def test_a_forged_history_stops_a_rollback(registry: Registry) -> None:
    for _ in range(3):
        publish(registry)
    forged = dataclasses.replace(registry.history()[1], version=1)
    registry.client.lset(NAMES.history, 1, forged.to_json())
    with pytest.raises(BundleRefused, match="invalid signature"):
        registry.rollback(who="ann", why="worse", private_key=KEY)


# ---- what a reader takes ---------------------------------------------------------------------------------------------


async def test_a_worker_takes_a_signed_move_and_its_bundle(registry: Registry, worker: AsyncRegistry) -> None:
    assert await worker.champion() is None
    stored = registry.publish(bundle(), KEY, who="ann", why="first")
    move = await worker.champion()
    assert move is not None
    assert move.version == 1
    assert await worker.champion() == move
    assert worker.verify(await worker.bundle(1), plan()) == stored


@pytest.mark.parametrize(
    "change", [{"version": 1}, {"bundle_hash": "0" * 64}, {"number": 99}, {"who": "bob"}, {"why": "x"}, {"share": 0.5},
               {"at_ms": 1}, {"previous": None}, {"signature": "00"}, {"signature": "no hex"}]
)  # fmt: skip
async def test_a_move_that_was_changed_is_refused(
    registry: Registry, worker: AsyncRegistry, change: dict[str, Any]
) -> None:
    publish(registry)
    publish(registry)
    move = registry.aliases()["champion"]
    registry.client.hset(NAMES.aliases, "champion", dataclasses.replace(move, **change).to_json())
    with pytest.raises(BundleRefused, match="invalid signature"):
        await worker.champion()


async def test_an_old_entry_that_comes_back_is_refused(registry: Registry, worker: AsyncRegistry) -> None:
    publish(registry)
    old = registry.client.hget(NAMES.aliases, "champion")
    publish(registry)
    assert await worker.champion()
    registry.client.hset(NAMES.aliases, "champion", old)
    with pytest.raises(BundleRefused, match="not above move 2"):
        await worker.champion()


async def test_an_entry_copied_from_another_alias_is_refused(registry: Registry, worker: AsyncRegistry) -> None:
    publish(registry)
    publish(registry)
    registry.move("challenger", 1, who="ann", why="try", private_key=KEY)
    registry.client.hset(NAMES.aliases, "champion", registry.client.hget(NAMES.aliases, "challenger"))
    with pytest.raises(BundleRefused, match="made for 'challenger'"):
        await worker.champion()


async def test_a_move_of_another_use_case_is_refused(registry: Registry, worker: AsyncRegistry) -> None:
    publish(registry)
    move = dataclasses.replace(registry.aliases()["champion"], usecase="other").signed(KEY)
    registry.client.hset(NAMES.aliases, "champion", move.to_json())
    with pytest.raises(BundleRefused, match="of 'other'"):
        await worker.champion()


async def test_a_stranger_cannot_move(registry: Registry, worker: AsyncRegistry) -> None:
    publish(registry)
    stranger = Ed25519PrivateKey.generate()
    registry.client.hset(NAMES.aliases, "champion", registry.aliases()["champion"].signed(stranger).to_json())
    with pytest.raises(BundleRefused, match="foreign key"):
        await worker.champion()


async def test_an_entry_that_is_no_move_is_refused(registry: Registry, worker: AsyncRegistry) -> None:
    for entry in (b"junk", b"{}", b'{"version": 1}'):
        registry.client.hset(NAMES.aliases, "champion", entry)
        with pytest.raises(BundleRefused, match="cannot be read"):
            await worker.champion()


async def test_a_replaced_bundle_is_refused(registry: Registry, worker: AsyncRegistry) -> None:
    publish(registry)
    publish(registry)
    assert await worker.champion()
    good = registry.raw(2)
    registry.client.set(NAMES.bundle(2), registry.raw(1))
    with pytest.raises(BundleRefused, match="stands bundle 1"):
        await worker.bundle(2)
    twin = sign(bundle().with_version(2), KEY).to_bytes()  # the right key, the right version, another content
    registry.client.set(NAMES.bundle(2), twin)
    with pytest.raises(BundleRefused, match="was replaced"):
        worker.verify(await worker.bundle(2), plan())
    assert worker.verify(good, plan()).version == 2
    registry.client.delete(NAMES.bundle(2))
    with pytest.raises(BundleRefused, match="no bundle 2"):
        await worker.bundle(2)


async def test_a_rollback_is_a_move_that_workers_take(registry: Registry, worker: AsyncRegistry) -> None:
    publish(registry)
    publish(registry)
    assert await worker.champion()
    registry.rollback(who="ann", why="worse", private_key=KEY)
    move = await worker.champion()
    assert move is not None
    assert (move.version, move.number) == (1, 3)


def test_check_move_wants_a_higher_number() -> None:
    move = Move("tried", "champion", 1, "h", 4, 0, "a", "b").signed(KEY)
    check_move(move, KEYS, NAMES, "champion", 3)
    for last in (4, 5):
        with pytest.raises(BundleRefused, match="old entry"):
            check_move(move, KEYS, NAMES, "champion", last)


async def test_a_notice_ends_the_wait(registry: Registry, worker: AsyncRegistry) -> None:
    notices = worker.notices()
    await notices.wait(5)  # subscribes and says: look again
    await notices.wait(0.05)
    waiting = asyncio.create_task(notices.wait(30))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    publish(registry)
    await asyncio.wait_for(waiting, 5)
    await notices.close()


async def test_waiting_goes_on_without_redis(server: fakeredis.FakeServer, worker: AsyncRegistry) -> None:
    notices = worker.notices()
    server.connected = False
    await notices.wait(0.01)
    await notices.wait(0.01)
    server.connected = True
    await notices.wait(0.01)
    await notices.close()


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert make_keys(folder)
    first = (folder / "signing.key").read_bytes()
    assert not make_keys(folder)
    assert (folder / "signing.key").read_bytes() == first
    assert (folder / "signing.key").stat().st_mode & 0o777 == 0o600
    assert set(load_public_keys(folder)) == set(public_keys_of(load_private_key(folder)))


def test_a_lost_public_key_is_made_again(tmp_path: Path) -> None:
    make_keys(tmp_path)
    (tmp_path / "signing.pub").unlink()
    assert not make_keys(tmp_path)
    assert set(load_public_keys(tmp_path)) == set(public_keys_of(load_private_key(tmp_path)))


def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    make_keys(tmp_path)
    os.chmod(tmp_path / "signing.key", 0o640)
    with pytest.raises(RiskflowError, match="chmod 600"):
        load_private_key(tmp_path)


def test_missing_and_broken_keys_name_the_fix(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="riskflow keys"):
        load_private_key(tmp_path)
    with pytest.raises(NotReady, match="riskflow keys"):
        load_public_keys(tmp_path)
    (tmp_path / "signing.pub").write_text("junk")
    with pytest.raises(RiskflowError, match="not an Ed25519 key"):
        load_public_keys(tmp_path)
    (tmp_path / "signing.key").write_text("junk")
    (tmp_path / "signing.key").chmod(0o600)
    with pytest.raises(RiskflowError, match="not a plain Ed25519 key"):
        load_private_key(tmp_path)


def test_two_public_keys_are_accepted_while_keys_change(tmp_path: Path) -> None:
    make_keys(tmp_path / "old")
    make_keys(tmp_path / "new")
    (tmp_path / "new" / "old.pub").write_bytes((tmp_path / "old" / "signing.pub").read_bytes())
    assert len(load_public_keys(tmp_path / "new")) == 2
