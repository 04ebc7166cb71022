"""The registry in Redis: bundles by version, aliases that point at them, and the history of every move.

A bundle's version is the next one there; it never changes and never comes back. An alias (`champion`, `challenger`,
`shadow`, `canary`) is changed by a *move*, which is numbered and signed: its signature covers use case, alias, version,
content hash and number. A reader takes a move only when the signature is valid and the number is above the last one it
took, so whoever can write to Redis can neither point an alias at an old bundle nor repeat an old move.

All keys carry the use case's hash tag and never expire. Writing watches what it has read (WATCH, MULTI), so two
publishers at once get two versions and two numbers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from riskflow.bundle import Bundle, sign, verify, verify_signature, version_of
from riskflow.connect import ERRORS
from riskflow.errors import BundleRefused, NotReady, RiskflowError
from riskflow.keys import PublicKeys, is_signed, key_id, load_public_keys, public_keys_of
from riskflow.names import Names

if TYPE_CHECKING:
    from riskflow.plan import Plan

T = TypeVar("T")
CHAMPION = "champion"
# RuntimeError is uvloop's, for a connection that was reset a moment ago.
AWAY = (OSError, RuntimeError, *ERRORS)
ALIASES = (CHAMPION, "challenger", "shadow", "canary")
_SIGNED = b"riskflow move 1\n"


@dataclass(frozen=True)
class Move:
    """One change of an alias. `number` counts the moves of a use case from 1; `previous` is where the alias stood."""

    usecase: str  # with the topic prefix: two installations on one Redis do not take each other's moves
    alias: str
    version: int
    bundle_hash: str
    number: int
    at_ms: int
    who: str
    why: str
    previous: int | None = None
    share: float | None = None  # of events, for `canary`
    key: str = ""
    signature: str = ""

    def message(self) -> bytes:
        """What the signature is over."""
        content = {k: v for k, v in asdict(self).items() if k != "signature"}
        return _SIGNED + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    def signed(self, private_key: Ed25519PrivateKey) -> Move:
        named = replace(self, key=key_id(private_key.public_key()))
        return replace(named, signature=private_key.sign(named.message()).hex())

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Move:
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            raise BundleRefused(f"the registry holds a move that cannot be read: {text[:80]!r}") from None


class Overtaken(RiskflowError):
    """Somebody published a newer version while this one was on its way; the alias was left alone."""


def check_move(move: Move, public_keys: PublicKeys, names: Names, alias: str, last_number: int = 0) -> None:
    """BundleRefused unless this is a signed move of this alias of this use case, above the last number taken."""
    who = f"move {move.number} of {alias!r} to version {move.version}"
    if move.usecase != _tag(names) or move.alias != alias:
        raise BundleRefused(f"{who} was made for {move.alias!r} of {move.usecase!r}: the entry was copied here")
    key = public_keys.get(move.key)
    if key is None:
        raise BundleRefused(f"{who} is signed with the foreign key {move.key!r}; known: {sorted(public_keys)}")
    if not is_signed(key, _unhex(move.signature), move.message()):
        raise BundleRefused(f"{who} has an invalid signature: it is not what {move.who!r} signed")
    if move.number <= last_number:
        raise BundleRefused(f"{who} is not above move {last_number}, which was taken already: an old entry came back")


class Registry:
    """What publishes, and what people look at. `client` is a synchronous Redis client."""

    def __init__(self, client: Any, names: Names) -> None:
        self.client, self.names = client, names

    # reading

    def versions(self) -> dict[int, dict[str, Any]]:
        """What `models list` shows of every version that was ever published, oldest first."""
        found = self.client.hgetall(self.names.versions)
        return {int(v): json.loads(about) for v, about in sorted(found.items(), key=lambda item: int(item[0]))}

    def aliases(self) -> dict[str, Move]:
        return _aliases(self.client.hgetall(self.names.aliases))

    def champion(self) -> Move | None:
        return self.aliases().get(CHAMPION)

    def history(self, alias: str | None = None) -> list[Move]:
        """All moves, oldest first."""
        moves = [Move.from_json(entry) for entry in self.client.lrange(self.names.history, 0, -1)]
        return [m for m in moves if alias in (None, m.alias)]

    def raw(self, version: int) -> bytes:
        """A bundle's bytes; they have not been verified."""
        found: bytes | None = self.client.get(self.names.bundle(version))
        if found is None:
            raise NotReady(f"{self.names.usecase} has no bundle {version}. See: riskflow models list")
        return found

    # writing

    def publish(
        self, bundle: Bundle, private_key: Ed25519PrivateKey, *, who: str, why: str, alias: str | None = CHAMPION
    ) -> Bundle:
        """Stores the bundle under the next version, then points the alias at it; alias=None only stores it.

        Raises Overtaken when a newer version took the alias in between.
        """
        stored = self.add(bundle, private_key, who=who)
        if alias is not None:
            self._move(alias, stored, private_key, who, why, forward=True)
        return stored

    def add(self, bundle: Bundle, private_key: Ed25519PrivateKey, *, who: str) -> Bundle:
        """Signs the bundle as the next version and stores it; returns it as stored."""

        def change(pipe: Any) -> Bundle:
            version = max((int(v) for v in pipe.hkeys(self.names.versions)), default=0) + 1
            stored = sign(bundle.with_version(version), private_key)
            raw = stored.to_bytes()
            pipe.multi()
            pipe.set(self.names.bundle(version), raw)
            pipe.hset(self.names.versions, str(version), json.dumps(_about(stored, len(raw), who)))
            return stored

        return self._transaction(change, self.names.versions)

    def move(
        self,
        alias: str,
        version: int,
        *,
        who: str,
        why: str,
        private_key: Ed25519PrivateKey,
        public_keys: PublicKeys | None = None,
        share: float | None = None,
    ) -> Move:
        """Points an alias at a stored version. The bundle's signature is checked with public_keys (default: own)."""
        bundle = verify_signature(self.raw(version), public_keys or public_keys_of(private_key))
        if bundle.version != version or bundle.usecase != self.names.usecase:
            raise BundleRefused(f"under version {version} stands bundle {bundle.version} of {bundle.usecase!r}")
        return self._move(alias, bundle, private_key, who, why, share=share)

    def rollback(
        self,
        *,
        who: str,
        why: str,
        private_key: Ed25519PrivateKey,
        public_keys: PublicKeys | None = None,
        alias: str = CHAMPION,
    ) -> Move:
        """Points the alias at what it pointed at before; once more, at the one before that."""
        keys = public_keys or public_keys_of(private_key)
        version = self.previous(alias, keys)
        return self.move(alias, version, who=who, why=why, private_key=private_key, public_keys=keys)

    def previous(self, alias: str, public_keys: PublicKeys) -> int:
        """Where `rollback` would move the alias, by the history's signed moves; BundleRefused when one is not."""
        moves, last = self.history(alias), 0
        for move in moves:
            check_move(move, public_keys, self.names, alias, last)
            last = move.number
        return previous_version(moves, alias)

    def _move(
        self,
        alias: str,
        bundle: Bundle,
        private_key: Ed25519PrivateKey,
        who: str,
        why: str,
        *,
        share: float | None = None,
        forward: bool = False,
    ) -> Move:
        _check_alias(alias, share)

        def change(pipe: Any) -> Move:
            now = _aliases(pipe.hgetall(self.names.aliases)).get(alias)
            if forward and now is not None and now.version > bundle.version:
                raise Overtaken(
                    f"version {bundle.version} is stored, but {now.version} became {alias} meanwhile. Judge it against "
                    f"that one; to take it all the same: riskflow models promote {bundle.version}"
                )
            number = _last_number(pipe, self.names) + 1
            move = Move(
                _tag(self.names), alias, bundle.version, bundle.content_hash, number, _now_ms(), who, why,
                now.version if now else None, share,
            ).signed(private_key)  # fmt: skip
            pipe.multi()
            pipe.hset(self.names.aliases, alias, move.to_json())
            pipe.rpush(self.names.history, move.to_json())
            return move

        move = self._transaction(change, self.names.aliases, self.names.history)
        with suppress(*ERRORS):  # workers look by themselves, too
            self.client.publish(self.names.notice, str(move.number))
        return move

    def _transaction(self, change: Callable[[Any], T], *watched: str) -> T:
        """change(pipe) reads, calls multi(), then writes; it is called again when a watched key has changed."""
        result: T = self.client.transaction(change, *watched, value_from_callable=True)
        return result


class AsyncRegistry:
    """What a worker needs. `client` is an asyncio Redis client that answers in bytes; keys: the folder with *.pub."""

    def __init__(self, client: Any, names: Names, keys: Path) -> None:
        self.client, self.names, self._keys = client, names, keys
        self._taken: dict[str, Move] = {}

    async def champion(self) -> Move | None:
        """Where the champion stands, checked; None before the first one."""
        return await self.alias(CHAMPION)

    async def alias(self, alias: str) -> Move | None:
        """Where an alias stands; BundleRefused for a move that is not signed, or not above the last one taken."""
        entry = await self.client.hget(self.names.aliases, alias)
        if entry is None:
            return None
        move, last = Move.from_json(entry), self._taken.get(alias)
        if move != last:
            check_move(move, load_public_keys(self._keys), self.names, alias, last.number if last else 0)
            self._taken[alias] = move
        return move

    async def bundle(self, version: int) -> bytes:
        """A bundle's bytes as they stand in Redis; `verify` comes next."""
        raw: bytes | None = await self.client.get(self.names.bundle(version))
        if raw is None:
            raise BundleRefused(f"{self.names.usecase} has no bundle {version} in Redis. See: riskflow models list")
        if version_of(raw) != version:
            raise BundleRefused(f"under version {version} stands bundle {version_of(raw)}: it was replaced")
        return raw

    def verify(self, raw: bytes, plan: Plan) -> Bundle:
        """The bundle, if it may be loaded for this plan and is what the moves taken so far name; else BundleRefused."""
        bundle = verify(raw, load_public_keys(self._keys), plan=plan)
        for move in self._taken.values():
            if move.version == bundle.version and move.bundle_hash != bundle.content_hash:
                raise BundleRefused(f"version {move.version} is not the bundle of move {move.number}: it was replaced")
        return bundle

    def notices(self) -> Notices:
        """Tells when an alias has moved."""
        return Notices(self.client, self.names.notice)


class Notices:
    """Waits for a notice of a move. While Redis is away it waits its time out, so looking goes on."""

    def __init__(self, client: Any, channel: str) -> None:
        self._client, self._channel = client, channel
        self._pubsub: Any = None

    async def wait(self, timeout_s: float) -> None:
        """Returns at the next notice, or after the time."""
        try:
            if self._pubsub is None:
                await self._subscribe()
            else:
                await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout_s)
        except AWAY:
            await self.close()
            await asyncio.sleep(timeout_s)

    async def close(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with suppress(*AWAY):
                await pubsub.aclose()

    async def _subscribe(self) -> None:
        """Returns at once, so that the caller looks again: a move may have come just before."""
        self._pubsub = self._client.pubsub()
        await self._pubsub.subscribe(self._channel)


def previous_version(moves: list[Move], alias: str) -> int:
    """Where an alias stood before: moving back to a version forgets what came after it."""
    stood: list[int] = []
    for move in moves:
        stood = stood[: stood.index(move.version)] if move.version in stood else stood
        stood = [*stood, move.version]
    if len(stood) < 2:
        raise NotReady(f"{alias} never pointed at an earlier version. See: riskflow models history")
    return stood[-2]


def _about(bundle: Bundle, size: int, who: str) -> dict[str, Any]:
    """What `models list` shows of a version without loading it."""
    figures = {k: v for k, v in bundle.metrics.items() if isinstance(v, int | float)}
    return {
        "hash": bundle.content_hash, "created_at": bundle.created_at, "at_ms": _now_ms(), "who": who,
        "bytes": size, "parent": bundle.parent, "models": [m["name"] for m in bundle.models], "metrics": figures,
    }  # fmt: skip


def _aliases(found: Mapping[Any, Any]) -> dict[str, Move]:
    return {(a.decode() if isinstance(a, bytes) else a): Move.from_json(move) for a, move in sorted(found.items())}


def _last_number(client: Any, names: Names) -> int:
    """The number of the newest move: of the history, and of the aliases should the history have lost its end."""
    newest = [Move.from_json(entry).number for entry in client.lrange(names.history, -1, -1)]
    return max([*newest, *(m.number for m in _aliases(client.hgetall(names.aliases)).values())], default=0)


def _check_alias(alias: str, share: float | None) -> None:
    if alias not in ALIASES:
        raise RiskflowError(f"alias {alias!r} is not known. Use one of: {', '.join(ALIASES)}")
    if (alias == "canary") != (share is not None) or (share is not None and not 0 < share < 1):
        raise RiskflowError(f"alias {alias!r} with share {share}: a canary takes a share between 0 and 1, others none")


def _tag(names: Names) -> str:
    return f"{names.prefix}{names.usecase}"


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _now_ms() -> int:
    return int(time.time() * 1000)
