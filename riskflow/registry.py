"""The registry in Redis: bundles by version, aliases that point at them, and the history of every move.

A bundle's version is the next one there; it never changes and never comes back. An alias is changed by a signed and
numbered move (riskflow/moves.py). This is the side of those who publish, and of people who look; what workers read
stands in riskflow/registry_reader.py.

All keys carry the use case's hash tag and never expire. Writing watches what it has read (WATCH, MULTI), so two
publishers at once get two versions and two numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from riskflow.bundle import Bundle, sign, verify_signature
from riskflow.connect import ERRORS
from riskflow.errors import BundleRefused, NotReady, RiskflowError
from riskflow.keys import PublicKeys, public_keys_of
from riskflow.moves import (
    CANARY,
    CHAMPION,
    MOST_BESIDE,
    RETIRED,
    Move,
    check_alias,
    check_move,
    is_beside,
    live_at,
    previous_version,
    tag,
)
from riskflow.names import Names

T = TypeVar("T")


class Overtaken(RiskflowError):
    """Somebody published a newer version while this one was on its way; the alias was left alone."""


class Moved(RiskflowError):
    """An alias has moved since the caller looked; nothing was done. Look again."""


class Change(NamedTuple):
    """Where an alias shall point."""

    alias: str
    version: int
    bundle_hash: str = ""
    share: float | None = None


class Registry:
    """What publishes, and what people look at. `client` is a synchronous Redis client."""

    def __init__(self, client: Any, names: Names) -> None:
        self.client, self.names = client, names

    # reading

    def versions(self) -> dict[int, dict[str, Any]]:
        """What `models list` shows of every version that was ever published, oldest first."""
        found = self.client.hgetall(self.names.versions)
        return {int(v): json.loads(about) for v, about in sorted(found.items(), key=lambda item: int(item[0]))}

    def version_made_of(self, made_of: str) -> int | None:
        """The version under which this bundle was published (Bundle.made_of); None for one that never was."""
        found = [version for version, about in self.versions().items() if about.get("made_of") == made_of]
        return found[-1] if found else None

    def aliases(self) -> dict[str, Move]:
        """The moves of aliases that point at a bundle; their signatures have not been checked."""
        found = _readable(self.client.hgetall(self.names.aliases))
        return {alias: move for alias, move in found.items() if move.version != RETIRED}

    def champion(self) -> Move | None:
        return self.aliases().get(CHAMPION)

    def number(self) -> int:
        """Of the newest move; 0 before the first one."""
        return _last_number(self.client, _readable(self.client.hgetall(self.names.aliases)), self.names)

    def history(self, alias: str | None = None) -> list[Move]:
        """All moves, oldest first."""
        moves = [Move.from_json(entry) for entry in self.client.lrange(self.names.history, 0, -1)]
        return [m for m in moves if alias in (None, m.alias)]

    def live_at(self, at_ms: int) -> dict[str, Move]:
        """Where each alias pointed at that moment, in ms since 1970: who was live, and by whose word."""
        return live_at(self.history(), at_ms)

    def raw(self, version: int) -> bytes:
        """A bundle's bytes; they have not been verified."""
        found: bytes | None = self.client.get(self.names.bundle(version))
        if found is None:
            raise self._gone(version)
        return found

    def _gone(self, version: int) -> NotReady:
        return NotReady(f"{self.names.usecase} has no bundle {version}. See: riskflow models list")

    # writing

    def publish(
        self, bundle: Bundle, private_key: Ed25519PrivateKey, *, who: str, why: str, alias: str | None = CHAMPION
    ) -> Bundle:
        """Stores the bundle under the next version, then points the alias at it; alias=None only stores it.

        Raises Overtaken when a newer version took the alias in between.
        """
        if alias is not None:
            check_alias(alias)
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
        forward: bool = False,
        since: int | None = None,
    ) -> Move:
        """Points an alias at a stored version. The bundle's signature is checked with public_keys (default: own).

        forward: only if no newer version took the alias in between; else Overtaken is raised.
        since: only if this is still the number of the newest move, of whatever alias; else Moved is raised.
        What stood at the version that becomes champion is taken off in the same transaction: the canary has arrived,
        and a shadow would be compared with itself.
        """
        bundle = self._verified(version, public_keys or public_keys_of(private_key))
        return self._move(alias, bundle, private_key, who, why, share=share, forward=forward, since=since)

    def retire(
        self, alias: str, *, who: str, why: str, private_key: Ed25519PrivateKey, since: int | None = None
    ) -> Move:
        """Takes an alias off. RiskflowError for the champion, NotReady for an alias that points at nothing.

        since: as with `move`.
        """
        if alias == CHAMPION:
            raise RiskflowError(
                f"the {CHAMPION} cannot be taken off: somebody has to decide. Point it elsewhere: riskflow models "
                "promote VERSION, or riskflow models rollback"
            )

        def changes(found: Mapping[str, Move]) -> list[Change]:
            if alias not in found or found[alias].version == RETIRED:
                raise NotReady(f"{alias!r} points at nothing. See: riskflow models list")
            return [Change(alias, RETIRED)]

        return self._changed(changes, private_key, who, why, since=since)

    def rollback(
        self,
        *,
        who: str,
        why: str,
        private_key: Ed25519PrivateKey,
        public_keys: PublicKeys | None = None,
        alias: str = CHAMPION,
    ) -> Move:
        """Points the champion at what it pointed at before; once more, at the one before that.

        A canary is taken off in the same transaction, so that nothing but the old version decides.
        """
        keys = public_keys or public_keys_of(private_key)
        bundle = self._verified(self.previous(alias, keys), keys)
        return self._move(alias, bundle, private_key, who, why, back=True)

    def previous(self, alias: str, public_keys: PublicKeys) -> int:
        """Where `rollback` would move the alias, by the history's signed moves; BundleRefused when one is not."""
        if alias != CHAMPION:
            raise RiskflowError(
                f"only the {CHAMPION} is rolled back. Take {alias!r} off: riskflow models retire {alias}; or point it "
                "elsewhere: riskflow models promote"
            )
        moves, last = self.history(alias), 0
        for move in moves:
            check_move(move, public_keys, self.names, alias, last)
            last = move.number
        try:
            return previous_version(moves, alias)
        except NotReady as nowhere:
            if CANARY not in self.aliases():
                raise
            raise NotReady(f"{nowhere}. To take the canary off alone: riskflow models retire {CANARY}") from None

    def _verified(self, version: int, public_keys: PublicKeys) -> Bundle:
        bundle = verify_signature(self.raw(version), public_keys)
        if bundle.version != version or bundle.usecase != self.names.usecase:
            raise BundleRefused(f"under version {version} stands bundle {bundle.version} of {bundle.usecase!r}")
        return bundle

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
        back: bool = False,
        since: int | None = None,
    ) -> Move:
        """forward: only if no newer version has the alias already; back: a canary goes with what it came for."""
        check_alias(alias, share)

        def changes(found: Mapping[str, Move]) -> list[Change]:
            if forward and alias in found and found[alias].version > bundle.version:
                raise Overtaken(
                    f"version {bundle.version} is stored, but {found[alias].version} became {alias} meanwhile. Judge "
                    f"it against that one; to take it all the same: riskflow models promote {bundle.version}"
                )
            _check_room(found, alias)
            stand = {a: m.version for a, m in found.items() if alias == CHAMPION != a and m.version != RETIRED}
            off = [a for a, version in stand.items() if version == bundle.version or (back and a == CANARY)]
            wanted = Change(alias, bundle.version, bundle.content_hash, share)
            return [wanted, *(Change(a, RETIRED) for a in off)]

        return self._changed(changes, private_key, who, why, bundle.version, since)

    def _changed(
        self,
        changes: Callable[[Mapping[str, Move]], list[Change]],
        private_key: Ed25519PrivateKey,
        who: str,
        why: str,
        version: int = RETIRED,
        since: int | None = None,
    ) -> Move:
        """One transaction of several moves, worked out of where the aliases stand; returns the first of them.

        version: the bundle that is moved to. It must be there still when the transaction ends: old ones are dropped.
        """
        bundle_key = self.names.bundle(version)

        def change(pipe: Any) -> Move:
            if version != RETIRED and not pipe.exists(bundle_key):
                raise self._gone(version)
            found = _readable(pipe.hgetall(self.names.aliases))
            last, at_ms = _last_number(pipe, found, self.names), _now_ms()
            if since not in (None, last):
                raise Moved(f"{self.names.usecase}: move {last} came in between. See: riskflow models history")
            moves = [
                Move(
                    tag(self.names), c.alias, c.version, c.bundle_hash, number, at_ms, who, why,
                    (found[c.alias].version or None) if c.alias in found else None, c.share,
                ).signed(private_key)
                for number, c in enumerate(changes(found), last + 1)
            ]  # fmt: skip
            pipe.multi()
            pipe.hset(self.names.aliases, mapping={move.alias: move.to_json() for move in moves})
            pipe.rpush(self.names.history, *(move.to_json() for move in moves))
            return moves[0]

        move = self._transaction(change, self.names.aliases, self.names.history, bundle_key)
        with suppress(*ERRORS):  # workers look by themselves, too
            self.client.publish(self.names.notice, str(move.number))
        return move

    def _transaction(self, change: Callable[[Any], T], *watched: str) -> T:
        """change(pipe) reads, calls multi(), then writes; it is called again when a watched key has changed."""
        result: T = self.client.transaction(change, *watched, value_from_callable=True)
        return result


def _about(bundle: Bundle, size: int, who: str) -> dict[str, Any]:
    """What `models list` shows of a version without loading it."""
    figures = {k: v for k, v in bundle.metrics.items() if isinstance(v, int | float)}
    return {
        "hash": bundle.content_hash, "made_of": bundle.made_of, "created_at": bundle.created_at,
        "at_ms": _now_ms(), "who": who, "bytes": size, "parent": bundle.parent,
        "models": [m["name"] for m in bundle.models], "metrics": figures,
    }  # fmt: skip


def _words(found: Mapping[Any, Any]) -> dict[str, Any]:
    return {(a.decode() if isinstance(a, bytes) else a): entry for a, entry in sorted(found.items())}


def _readable(found: Mapping[Any, Any]) -> dict[str, Move]:
    """The entries that are moves: garbage under one alias must not keep people from moving the others."""
    out = {}
    for alias, entry in _words(found).items():
        with suppress(BundleRefused):
            out[alias] = Move.from_json(entry)
    return out


def _last_number(client: Any, found: Mapping[str, Move], names: Names) -> int:
    """The number of the newest move: of the history, and of the aliases should the history have lost its end."""
    newest = [Move.from_json(entry).number for entry in client.lrange(names.history, -1, -1)]
    return max([*newest, *(m.number for m in found.values())], default=0)


def _check_room(found: Mapping[str, Move], alias: str) -> None:
    there = [a for a, m in found.items() if is_beside(a) and m.version != RETIRED and a != alias]
    if is_beside(alias) and len(there) >= MOST_BESIDE:
        raise RiskflowError(
            f"{len(there)} challengers and shadows score every event already, and {MOST_BESIDE} is the most. Take one "
            f"off first: riskflow models retire {there[0]}"
        )


def _now_ms() -> int:
    return int(time.time() * 1000)
