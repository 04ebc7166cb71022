"""Claim, load, commit: why nothing is lost or counted twice.

A *head* in Redis says up to where a stage's log has been applied and by which epoch. Records and head change in one
script, only for the epoch and position that the worker holds; so all that is computed comes from one consistent view,
and what a worker that lost its partition still sends equals what its successor sends.

    claim   take the partition: a higher epoch than anybody before
    load    head and records at once; another epoch or position: leave
    commit  records and head at once; no answer: look what happened, then done, again, or leave
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, ConnectionError, ReadOnlyError, TimeoutError

from riskflow.errors import Leave, NotReady
from riskflow.names import Names
from riskflow.state import LEFT_FOR

log = structlog.get_logger(__name__)
AWAY = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OSError)
RETRY_S = 0.2
FIELDS = ("position", "epoch", "topic_id", "layout", "applied", "sent", "roster", "starts", "parked")

CLAIM = f"""
local stored = redis.call('HMGET', KEYS[1], 'position', 'epoch', '{LEFT_FOR}')
if not stored[1] then return false end
if stored[3] then return {{stored[3]}} end
local epoch = math.max(tonumber(stored[2]) + 1, tonumber(ARGV[1]))
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch))
redis.call('HINCRBY', KEYS[1], 'starts', 1)
return redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
"""

# Lua passes at most about 8,000 values to one call, so long lists go in parts.
LOAD = """
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'position')
if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then return {0, stored[1] or 'none', stored[2] or 'none'} end
local fields, out = cmsgpack.unpack(ARGV[3]), {1}
for first = 1, #fields, 4000 do
  local part = redis.call('HMGET', KEYS[2], unpack(fields, first, math.min(first + 3999, #fields)))
  for i = 1, #part do out[#out + 1] = part[i] end
end
return out
"""

COMMIT = """
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'position')
if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then return {0, stored[1] or 'none', stored[2] or 'none'} end
local pairs_ = cmsgpack.unpack(ARGV[4])
for first = 1, #pairs_, 4000 do
  redis.call('HSET', KEYS[2], unpack(pairs_, first, math.min(first + 3999, #pairs_)))
end
redis.call('HSET', KEYS[1], unpack(cmsgpack.unpack(ARGV[3])))
return {1}
"""


@dataclass
class Head:
    """One claimed stage and partition. Only its lane changes it, and only after the commit stands in Redis."""

    redis: Redis
    names: Names
    stage: str
    partition: int
    position: int
    epoch: int
    topic_id: str
    layout: str
    applied: dict[str, int]
    sent: dict[str, int]
    roster: dict[str, Any]
    starts: int
    parked: list[int] = field(default_factory=list)  # offsets that people took out with `riskflow park`
    fence: int = 0  # before this offset, outputs may have left already: no swap
    keys: list[str] = field(default_factory=list)

    @classmethod
    async def claim(cls, redis: Redis, names: Names, stage: str, partition: int) -> Head:
        """Takes the partition; raises NotReady where there is no head: a position is never guessed."""
        keys = [names.head(stage, partition), names.records(stage, partition)]
        stored = await until_answered(
            lambda: redis.register_script(CLAIM)(keys[:1], [int(time.time() * 1000), *FIELDS])
        )
        await _check_present(redis, names, stored)
        if stored is None:
            raise NotReady(
                f"no head for stage {stage!r}, partition {partition} of generation {names.generation} in Redis. "
                f"For a new use case run `riskflow topics {names.usecase}`; if Redis was emptied or replaced, "
                f"`riskflow rebuild {names.usecase}`."
            )
        values = dict(zip(FIELDS, ((v or b"[]").decode() for v in stored), strict=True))
        numbers = {k: int(values[k]) for k in ("position", "epoch", "starts")}
        parts = {k: json.loads(values[k]) for k in ("applied", "sent", "roster", "parked")}
        return cls(
            redis, names, stage, partition, topic_id=values["topic_id"], layout=values["layout"], keys=keys,
            **numbers, **parts,
        )  # fmt: skip

    async def load(self, entities: Sequence[bytes]) -> list[bytes | None]:
        """The records of these entities at this position; raises Leave when somebody else has moved on."""
        fields = packed([b"e:" + e for e in entities])
        script = self.redis.register_script(LOAD)
        answer = await until_answered(lambda: script(self.keys, [self.epoch, self.position, fields]))
        self._check(answer, "load")
        return list(answer[1:])

    async def commit(
        self,
        position: int,
        *,
        applied: dict[str, int] | None = None,
        sent: dict[str, int] | None = None,
        roster: dict[str, Any] | None = None,
        entities: Sequence[bytes] = (),
        records: Sequence[bytes] = (),
    ) -> None:
        """Records and head in one step; raises Leave when this worker is not the owner any more."""
        new: dict[str, Any] = {"position": position}
        for name, value in (("applied", applied), ("sent", sent), ("roster", roster)):
            if value is not None:
                new[name] = json.dumps(value, separators=(",", ":"))
        if position > self.position:
            new["starts"] = 0
        head = packed([str(x).encode() for pair in new.items() for x in pair])
        pairs = packed([x for e, r in zip(entities, records, strict=True) for x in (b"e:" + e, r)])
        await self._commit([self.epoch, self.position, head, pairs], position)
        self.position = position
        self.applied = self.applied if applied is None else applied
        self.sent = self.sent if sent is None else sent
        self.roster = self.roster if roster is None else roster

    async def _commit(self, arguments: list[Any], position: int) -> None:
        script = self.redis.register_script(COMMIT)
        try:
            answer = await script(self.keys, arguments)
        except AWAY as error:
            log.warning("no answer to a commit", stage=self.stage, partition=self.partition, error=repr(error))
            if not await self._happened(position):
                await asyncio.sleep(RETRY_S)
                await self._commit(arguments, position)
            return
        self._check(answer, "commit")

    async def _happened(self, position: int) -> bool:
        """After a commit without an answer: mine and new: done; mine and old: again; else leave."""
        stored = await until_answered(lambda: self.redis.hmget(self.keys[0], "epoch", "position"))
        if stored == [str(self.epoch).encode(), str(position).encode()] and position > self.position:
            return True
        if stored == [str(self.epoch).encode(), str(self.position).encode()]:
            return False
        raise Leave(self._lost("commit", stored))

    def _check(self, answer: Any, what: str) -> None:
        if answer[0] != 1:
            raise Leave(self._lost(what, answer[1:]))

    def _lost(self, what: str, stored: Any) -> str:
        found = [v.decode() if isinstance(v, bytes) else v for v in stored]
        return (
            f"{what} of stage {self.stage!r}, partition {self.partition}: held epoch {self.epoch} at {self.position}, "
            f"Redis has epoch and position {found}. Somebody else owns it now, or Redis lost its last writes."
        )


async def _check_present(redis: Redis, names: Names, claimed: list[bytes] | None) -> None:
    """Raises Leave when this generation was left while the worker started: started again, it takes the next one."""
    following = claimed[0] if claimed is not None and len(claimed) == 1 else None
    if claimed is None:  # the old heads may be gone already
        following = await until_answered(lambda: redis.get(names.current_generation))
    if following is not None and int(following) != names.generation:
        raise Leave(
            f"generation {names.generation} of {names.usecase} was left for {int(following)}; started again, a worker "
            f"takes that one. If it comes here again, a rebuild was ended at its last step: run "
            f"`riskflow rebuild {names.usecase}` again."
        )


async def has_head(redis: Redis, names: Names, stage: str, partition: int) -> bool:
    """Whether a partition has been given a head."""
    return bool(await until_answered(lambda: redis.exists(names.head(stage, partition))))


def packed(values: Sequence[bytes]) -> bytes:
    """MessagePack of byte strings as Redis' cmsgpack reads it: it knows the raw type, not the newer binary one."""
    parts = [b"\xdd", struct.pack(">I", len(values))]
    for value in values:
        parts += (b"\xdb", struct.pack(">I", len(value)), value)
    return b"".join(parts)


async def until_answered(call: Any) -> Any:
    """Asks Redis until it answers; while it is away, scoring waits."""
    waited = 0.0
    while True:
        try:
            return await call()
        except AWAY as error:
            if waited % 5 < RETRY_S:
                log.warning("Redis is away, waiting", error=repr(error), waited_s=round(waited, 1))
            await asyncio.sleep(RETRY_S)
            waited += RETRY_S
