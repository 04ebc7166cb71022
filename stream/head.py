"""Claim, load, commit: why nothing is lost or counted twice.

A *head* in Redis says up to where a stage's log has been applied and by which epoch. Records and head change in one
script, only for the epoch and position that the worker holds; so all that is computed comes from one consistent view,
and what a worker that lost its partition still sends equals what its successor sends.

    claim   take the partition: a higher epoch than anybody before
    load    head and records at once; another epoch or position: leave
    commit  records and head at once; no answer: look what happened, then done, again, or leave
    sweep   some records that are dead at the head's watermark are deleted (stream/sweep.py)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
)

from riskflow.connect import is_cluster
from riskflow.errors import Leave, NotReady
from riskflow.names import Names
from riskflow.state import BEHIND, HELD_UNTIL_MS, LEFT_FOR, UNTIL, WATERMARK

log = structlog.get_logger(__name__)
REFUSED = (BusyLoadingError, ReadOnlyError, OutOfMemoryError, NoScriptError)
CLUSTER_AWAY = (ClusterError, RedisClusterException)  # a shard without a master, or no node that answers
AWAY = (ConnectionError, TimeoutError, OSError, *REFUSED, *CLUSTER_AWAY)
# What else means that: a full disk; uvloop's word for a connection that was reset a moment ago; redis-py's for one to a
# node of a cluster that another call has just closed.
SAYS_AWAY = ("MISCONF", "the handler is closed", "has no attribute 'writelines'")
RETRY_S = 0.2
SAY_S = 5.0  # between two words about the same
FIELDS = ("position", "epoch", "topic_id", "layout", "applied", "sent", "roster", "starts", "parked", BEHIND, WATERMARK)

# The clock is Redis' own: workers' clocks differ and jump, and an epoch that was lost must not be given again.
CLAIM = f"""
local stored = redis.call('HMGET', KEYS[1], 'position', 'epoch', '{LEFT_FOR}', 'topic_id')
if not stored[1] then return false end
if stored[3] then return {{stored[3]}} end
if stored[4] == ARGV[1] then
  local now = redis.call('TIME')
  local epoch = math.max(tonumber(stored[2]) + 1, now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch))
  redis.call('HINCRBY', KEYS[1], 'starts', 1)
end
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

# What intake asks in the place of LOAD; without an epoch anybody may look. See stream/gate.py.
GATE = f"""
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'position', '{UNTIL}', '{HELD_UNTIL_MS}', '{BEHIND}')
if ARGV[1] ~= '' and (stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2]) then
  return {{0, stored[1] or 'none', stored[2] or 'none'}}
end
local now = redis.call('TIME')
local wait = tonumber(stored[4] or 0) - (now[1] * 1000 + math.floor(now[2] / 1000))
return {{1, stored[3] or '', math.max(0, wait), stored[5] or ''}}
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

# How a record says when it was touched is in riskflow/records.py.
SWEEP = f"""
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'position', '{WATERMARK}')
if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then return {{0, stored[1] or 'none', stored[2] or 'none'}} end
local found = redis.call('HSCAN', KEYS[2], ARGV[3], 'COUNT', ARGV[5])
local oldest, deleted = tonumber(stored[3] or 0) - tonumber(ARGV[4]), 0
for i = 1, #found[2], 2 do
  local touched, scale, at = 0, 1, 2
  repeat
    local digit = string.byte(found[2][i + 1], at)
    touched, scale, at = touched + digit % 128 * scale, scale * 128, at + 1
  until digit < 128
  if touched < oldest then deleted = deleted + redis.call('HDEL', KEYS[2], found[2][i]) end
end
return {{1, found[1], deleted}}
"""


def for_each(script: str, keys: int, arguments: int) -> str:
    """The script on several heads of one server: so many keys and arguments for each, an answer from each."""
    return f"""
local function one(KEYS, ARGV)
{script}
end
local answers = {{}}
for i = 1, #KEYS / {keys} do
  local keys = {{unpack(KEYS, {keys} * (i - 1) + 1, {keys} * i)}}
  answers[i] = one(keys, {{unpack(ARGV, {arguments} * (i - 1) + 1, {arguments} * i)}})
end
return answers
"""


FOR_EACH = {LOAD: for_each(LOAD, 2, 3), GATE: for_each(GATE, 1, 2), COMMIT: for_each(COMMIT, 2, 4)}
SHA = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (CLAIM, LOAD, GATE, COMMIT, SWEEP, *FOR_EACH.values())
}


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
    watermark: int = 0  # the newest day that the rows before the position have shown
    behind: int | None = None  # the generation that still scores what this one only counts
    ended: bool = False  # this generation takes no more from here
    fence: int = 0  # before this offset, outputs may have left already: no swap
    keys: list[str] = field(default_factory=list)

    @classmethod
    async def claim(cls, redis: Redis, names: Names, stage: str, partition: int, topic_id: str) -> Head:
        """Takes the partition; raises NotReady where there is no head: a position is never guessed.

        A head of another topic is returned as it is and not taken: it may be a running worker's, of another Kafka.
        """
        keys = [names.head(stage, partition), names.records(stage, partition)]
        [stored] = await until_answered(lambda: run_script(redis, CLAIM, [(keys[:1], [topic_id, *FIELDS])]))
        await _check_present(redis, names, stored)
        if stored is None:
            raise NotReady(
                f"no head for stage {stage!r}, partition {partition} of generation {names.generation} in Redis. "
                f"For a new use case run `riskflow topics {names.usecase}`. If this is not its Redis, set "
                f"RISKFLOW_REDIS_URL; if it was emptied or replaced, run `riskflow rebuild {names.usecase}`."
            )
        values = dict(zip(FIELDS, ((v or b"[]").decode() for v in stored), strict=True))
        numbers = {k: int(values[k]) for k in ("position", "epoch", "starts")}
        parts = {k: json.loads(values[k]) for k in ("applied", "sent", "roster", "parked")}
        parts[BEHIND] = json.loads(values[BEHIND]) or None
        numbers[WATERMARK] = json.loads(values[WATERMARK]) or 0
        return cls(
            redis, names, stage, partition, topic_id=values["topic_id"], layout=values["layout"], keys=keys,
            **numbers, **parts,
        )  # fmt: skip

    def check(self, answer: Any, what: str) -> Any:
        """The script's values; raises Leave when somebody else has moved on."""
        if answer[0] != 1:
            raise Leave(self._lost(what, answer[1:]))
        return answer[1:]

    async def happened(self, position: int) -> bool:
        """After a commit without an answer: mine and new: done; mine and old: again; else leave."""
        stored = await until_answered(lambda: self.redis.hmget(self.keys[0], "epoch", "position"))
        if stored == [str(self.epoch).encode(), str(position).encode()] and position > self.position:
            return True
        if stored == [str(self.epoch).encode(), str(self.position).encode()]:
            return False
        raise Leave(self._lost("commit", stored))

    def _lost(self, what: str, stored: Any) -> str:
        found = [v.decode() if isinstance(v, bytes) else v for v in stored]
        return (
            f"{what} of stage {self.stage!r}, partition {self.partition}: held epoch {self.epoch} at {self.position}, "
            f"Redis has epoch and position {found}. Another worker owns it now, its generation was left "
            "(`riskflow switch`), or Redis lost its last writes."
        )


@dataclass
class Commit:
    """What changes when a batch of one partition is done: the head's fields, and records of entities."""

    head: Head
    position: int
    applied: dict[str, int] | None = None
    sent: dict[str, int] | None = None
    roster: dict[str, Any] | None = None
    watermark: int | None = None
    entities: Sequence[bytes] = ()
    records: Sequence[bytes] = ()
    nothing_waits: bool = False  # at a claim: it was not this partition that the starts before failed at

    def arguments(self) -> list[Any]:
        """Of the script.

        The roster is said again each time: a pin moves no position, so a Redis that lost it alone looks like ours.
        """
        new: dict[str, Any] = {"position": self.position}
        roster = (self.roster or self.head.roster) or None
        for name, value in (("applied", self.applied), ("sent", self.sent), ("roster", roster)):
            if value is not None:
                new[name] = msgspec.json.encode(value).decode()
        if self.watermark is not None:
            new[WATERMARK] = self.watermark
        if self.position > self.head.position or self.nothing_waits:
            new["starts"] = 0
        head = packed([str(x).encode() for pair in new.items() for x in pair])
        pairs = packed([x for e, r in zip(self.entities, self.records, strict=True) for x in (b"e:" + e, r)])
        return [self.head.epoch, self.head.position, head, pairs]

    def done(self) -> None:
        """It stands in Redis."""
        head = self.head
        if self.position > head.position or self.nothing_waits:
            head.starts = 0
        head.position = self.position
        head.applied = head.applied if self.applied is None else self.applied
        head.sent = head.sent if self.sent is None else self.sent
        head.roster = head.roster if self.roster is None else self.roster
        head.watermark = head.watermark if self.watermark is None else self.watermark


async def load(wanted: Sequence[tuple[Head, Sequence[bytes]]]) -> list[list[bytes | None]]:
    """The records of each head's entities at its position, in one round trip; raises Leave when one has moved on."""
    calls = [(h.keys, [h.epoch, h.position, packed([b"e:" + e for e in entities])]) for h, entities in wanted]
    answers = await until_answered(lambda: run_script(wanted[0][0].redis, LOAD, calls))
    return [head.check(answer, "load") for (head, _), answer in zip(wanted, answers, strict=True)]


async def commit(commits: Sequence[Commit]) -> None:
    """Records and head of each partition in one step; raises Leave when this worker is not the owner of one any more.

    Each partition is committed on its own: if the worker ends between two of them, the other is done again.
    """
    left, waited = list(commits), 0.0
    while left:
        try:
            answers = await run_script(left[0].head.redis, COMMIT, [(c.head.keys, c.arguments()) for c in left])
        except Exception as error:
            if not away(error):
                raise
            if waited % SAY_S < RETRY_S:
                log.warning("no answer to a commit", stage=left[0].head.stage, error=repr(error), waited_s=waited)
            left = await _not_happened(left)
            if left:
                await asyncio.sleep(RETRY_S)
                waited += RETRY_S
            continue
        for one, answer in zip(left, answers, strict=True):
            one.head.check(answer, "commit")
            one.done()
        return


async def _not_happened(commits: list[Commit]) -> list[Commit]:
    left = []
    for one in commits:
        if await one.head.happened(one.position):
            one.done()
        else:
            left.append(one)
    return left


async def run_script(redis: Redis, script: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
    """A script on several heads, in one round trip; each head is decided on by itself."""
    try:
        if len(calls) == 1:
            keys, arguments = calls[0]
            return [await redis.evalsha(SHA[script], len(keys), *keys, *arguments)]
        if is_cluster(redis):
            return await _run_on_shards(redis, SHA[script], calls)
        all_keys = [key for keys, _ in calls for key in keys]
        all_arguments = [argument for _, arguments in calls for argument in arguments]
        return list(await redis.evalsha(SHA[FOR_EACH[script]], len(all_keys), *all_keys, *all_arguments))
    except NoScriptError:
        for each in SHA:  # a new Redis, or one that was started again
            await redis.script_load(each)
        raise


async def _run_on_shards(redis: Any, sha: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
    """All at once; every one has ended when this returns or raises, so that what happened can be looked at."""
    answers = await asyncio.gather(
        *(redis.evalsha(sha, len(keys), *keys, *arguments) for keys, arguments in calls), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return list(answers)


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


def away(error: Exception) -> bool:
    """Whether Redis is away, or answers that it takes nothing now."""
    said = str(error) if isinstance(error, ResponseError | RuntimeError | AttributeError) else ""
    return isinstance(error, AWAY) or any(words in said for words in SAYS_AWAY)


async def until_answered(call: Any) -> Any:
    """Asks Redis until it answers; while it is away, scoring waits."""
    waited = 0.0
    while True:
        try:
            return await call()
        except Exception as error:
            if not away(error):
                raise
            if not isinstance(error, NoScriptError) and waited % SAY_S < RETRY_S:
                log.warning("Redis is away, waiting", error=repr(error), waited_s=round(waited, 1))
            await asyncio.sleep(RETRY_S)
            waited += RETRY_S
