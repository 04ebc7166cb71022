"""The registry as a worker reads it: moves and bundles, each checked before it is believed, and notices of a move."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riskflow.bundle import Bundle, verify, version_of
from riskflow.connect import ERRORS
from riskflow.errors import BundleRefused
from riskflow.keys import load_public_keys
from riskflow.moves import CHAMPION, Move, Standing, check_move, standing
from riskflow.names import Names

if TYPE_CHECKING:
    from riskflow.plan import Plan

# RuntimeError is uvloop's, for a connection that was reset a moment ago.
AWAY = (OSError, RuntimeError, *ERRORS)


def first_bundle(usecase: str) -> str:
    """What to run where nothing was published yet."""
    return f"riskflow models rules --usecase {usecase}, or for a model: riskflow train {usecase} --publish"


class AsyncRegistry:
    """What a worker needs. `client` is an asyncio Redis client that answers in bytes; keys: the folder with *.pub."""

    def __init__(self, client: Any, names: Names, keys: Path) -> None:
        self.client, self.names, self._keys = client, names, keys
        self._taken: dict[str, Move] = {}
        self._seen: tuple[dict[str, bytes], Standing] | None = None

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

    async def roster(self) -> Standing:
        """Where every alias stands. An entry that is refused is named, and the one that was taken before it stays."""
        entries = {a.decode(errors="replace"): e for a, e in (await self.client.hgetall(self.names.aliases)).items()}
        if self._seen is None or entries != self._seen[0] or self._seen[1].refused:
            found = standing(entries, load_public_keys(self._keys), self.names, self._taken)
            self._taken.update(found.moves)
            self._seen = entries, found
        return self._seen[1]

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
        for move in list(self._taken.values()):
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
