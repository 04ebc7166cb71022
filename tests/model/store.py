"""Redis in memory: the scripts of stream/head.py and batch/switch.py said again in Python, and what Redis may lose.

The state of a partition (head and records, one hash tag) is a list of versions, so that any number of the last writes
can be taken back. tests/integration/test_model_redis.py holds this store and a real Redis to the same answers.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from redis.exceptions import ConnectionError, NoScriptError

from riskflow.records import touched_days
from riskflow.state import BEHIND, HELD_UNTIL_MS, LEFT_FOR, UNTIL, WATERMARK
from stream.head import CLAIM, COMMIT, FOR_EACH, GATE, LOAD, SHA, SWEEP

Hash = dict[bytes, bytes]
Gate = Callable[[str], Awaitable[None]]
SCRIPTS = {sha: script for script, sha in SHA.items()}
OF_EACH = {SHA[whole]: SHA[script] for script, whole in FOR_EACH.items()}
WORDS = {CLAIM: "claim", LOAD: "load", GATE: "load", COMMIT: "commit", SWEEP: "sweep"}
LOST_BEFORE, LOST_AFTER = "lost before it ran", "lost after it ran"


@dataclass(frozen=True)
class Version:
    """Head and records of a partition after one write, never changed."""

    number: int
    head: Hash
    records: Hash
    owner: object = None  # who claimed last; Redis does not know, the test does


@dataclass
class Rules:
    """What the scripts compare; a test switches one off to see that it is missed."""

    load: tuple[bytes, ...] = (b"epoch", b"position")
    commit: tuple[bytes, ...] = (b"epoch", b"position")
    raises_epoch: bool = True
    commits_at_once: bool = True


@dataclass
class Store:
    """All partitions by hash tag, and other keys."""

    rules: Rules = field(default_factory=Rules)
    partitions: dict[str, list[Version]] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    scripts: set[str] = field(default_factory=set)
    writes: int = 0
    clock_ms: int = 1_750_000_000_000
    stolen: list[str] = field(default_factory=list)  # writes by somebody who was not the owner

    def now(self, key: str) -> Version | None:
        versions = self.partitions.get(tag(key))
        return versions[-1] if versions else None

    def write(self, key: str, version: Version) -> None:
        self.writes += 1
        version = Version(self.writes, version.head, version.records, version.owner)
        self.partitions.setdefault(tag(key), []).append(version)

    def lose(self, of: str, versions: int) -> list[Version]:
        """Takes back the last writes of one partition; at least one version stays."""
        there = self.partitions.get(of, [])
        kept = max(1, len(there) - versions)
        lost = there[kept:]
        del there[kept:]
        return lost

    def lose_since(self, of: str, write: int) -> list[Version]:
        """Takes back all that was written after a write."""
        return self.lose(of, sum(v.number > write for v in self.partitions.get(of, [])))

    def run(self, sha: str, keys: list[str], arguments: list[bytes], owner: object) -> Any:
        """One script, as Redis runs it: nothing comes between."""
        if sha not in self.scripts:
            raise NoScriptError("NOSCRIPT No matching script.")
        scripts = {
            CLAIM: self._claim, LOAD: self._load, GATE: self._look, COMMIT: self._commit, SWEEP: self._sweep,
        }  # fmt: skip
        return scripts[SCRIPTS[sha]](keys, arguments, owner)

    def _claim(self, keys: list[str], arguments: list[bytes], owner: object) -> Any:
        version = self.now(keys[0])
        if version is None or b"position" not in version.head:
            return None
        if LEFT_FOR.encode() in version.head:
            return [version.head[LEFT_FOR.encode()]]
        topic_id, *fields = arguments
        if version.head.get(b"topic_id") == topic_id:
            stored = int(version.head[b"epoch"])
            self.clock_ms += 1
            epoch = max(stored + 1, self.clock_ms) if self.rules.raises_epoch else stored
            starts = int(version.head.get(b"starts", b"0")) + 1
            head = {**version.head, b"epoch": b"%d" % epoch, b"starts": b"%d" % starts}
            self.write(keys[0], Version(0, head, version.records, owner))
            return [head.get(f) for f in fields]
        return [version.head.get(f) for f in fields]

    def _load(self, keys: list[str], arguments: list[bytes], owner: object) -> Any:
        epoch, position, fields = arguments
        version = self.now(keys[0])
        refused = self._refused(version, self.rules.load, epoch, position)
        if refused:
            return refused
        assert version is not None
        return [1, *(version.records.get(f) for f in unpacked(fields))]

    def _look(self, keys: list[str], arguments: list[bytes], owner: object) -> Any:
        epoch, position = arguments
        version = self.now(keys[0])
        refused = self._refused(version, self.rules.load, epoch, position) if epoch else None
        if refused:
            return refused
        head = version.head if version else {}
        wait_ms = max(0, int(head.get(HELD_UNTIL_MS.encode(), b"0")) - self.clock_ms)
        return [1, head.get(UNTIL.encode(), b""), wait_ms, head.get(BEHIND.encode(), b"")]

    def _sweep(self, keys: list[str], arguments: list[bytes], owner: object) -> Any:
        """All records at once, as Redis does where there are few."""
        epoch, position, _cursor, live_days, _records = arguments
        version = self.now(keys[0])
        refused = self._refused(version, self.rules.commit, epoch, position)
        if refused:
            return refused
        assert version is not None
        oldest = int(version.head.get(WATERMARK.encode(), b"0")) - int(live_days)
        days = touched_days(list(version.records.values())).tolist()
        kept = {e: r for (e, r), day in zip(version.records.items(), days, strict=True) if day >= oldest}
        deleted = len(version.records) - len(kept)
        if deleted:
            self.write(keys[0], replace(version, records=kept))
        return [1, b"0", deleted]

    def hold(self, key: str, for_ms: int) -> bytes | None:
        """HOLD of batch/switch.py: intake takes nothing for a while, unless it was cut."""
        version = self.now(key) or Version(0, {}, {})
        if UNTIL.encode() in version.head:
            return version.head[UNTIL.encode()]
        until_ms = b"%d" % (self.clock_ms + for_ms)
        self.write(key, replace(version, head={**version.head, HELD_UNTIL_MS.encode(): until_ms}))
        return None

    def cut(self, key: str, end: int) -> bytes | None:
        """CUT of batch/switch.py: only while it is held."""
        version = self.now(key) or Version(0, {}, {})
        head = dict(version.head)
        if UNTIL.encode() in head:
            return head[UNTIL.encode()]
        if int(head.pop(HELD_UNTIL_MS.encode(), b"0")) <= self.clock_ms:
            return None
        self.write(key, replace(version, head={**head, UNTIL.encode(): b"%d" % end}))
        return b"%d" % end

    def _commit(self, keys: list[str], arguments: list[bytes], owner: object) -> Any:
        epoch, position, head, pairs = arguments
        version = self.now(keys[0])
        refused = self._refused(version, self.rules.commit, epoch, position)
        if refused:
            return refused
        found = version or Version(0, {}, {})
        if found.owner is not owner:
            self.stolen.append(f"{keys[0]}: a commit by somebody who had lost it, at {position.decode()}")
        changed = replace(found, records={**found.records, **paired(unpacked(pairs))})
        if not self.rules.commits_at_once:
            self.write(keys[0], changed)
        self.write(keys[0], replace(changed, head={**found.head, **paired(unpacked(head))}))
        return [1]

    @staticmethod
    def _refused(version: Version | None, compared: tuple[bytes, ...], epoch: bytes, position: bytes) -> Any:
        head = version.head if version else {}
        held = {b"epoch": epoch, b"position": position}
        if all(head.get(name) == held[name] for name in compared):
            return None
        return [0, head.get(b"epoch", b"none"), head.get(b"position", b"none")]


class Client:
    """What a worker holds in place of an asyncio Redis client."""

    def __init__(self, store: Store, gate: Gate) -> None:
        self.store, self._gate = store, gate
        self.answers_lost: list[str] = []  # faults of the next calls

    async def evalsha(self, sha: str, n_keys: int, *values: Any) -> Any:
        if sha not in OF_EACH:
            [answer] = await self.run([(sha, n_keys, values)])
            return answer
        keys = 1 if SCRIPTS[OF_EACH[sha]] == GATE else 2  # of each head
        heads = n_keys // keys
        each = (len(values) - n_keys) // heads
        return await self.run([
            (OF_EACH[sha], keys, (*values[keys * i : keys * (i + 1)], *values[n_keys + each * i :][:each]))
            for i in range(heads)
        ])  # fmt: skip

    async def run(self, calls: list[tuple[str, int, tuple[Any, ...]]]) -> list[Any]:
        """Calls one after another; others' calls may come between, and the connection may break at any place.

        More may happen between heads than on one Redis, where a script on several is one: as much as on a cluster.
        """
        fault = self.answers_lost.pop() if self.answers_lost else ""
        answers = []
        names = [f"{WORDS[SCRIPTS[sha]]} {stage(values[0])}" for sha, _, values in calls]
        for i, (sha, n_keys, values) in enumerate(calls):
            await self._gate(names[i])
            if fault == LOST_BEFORE and i == len(calls) - 1:
                raise ConnectionError(fault)
            keys, arguments = list(values[:n_keys]), [encoded(v) for v in values[n_keys:]]
            answers.append(self.store.run(sha, keys, arguments, self))
        await self._gate("after " + names[-1])
        if fault == LOST_AFTER:
            raise ConnectionError(fault)
        return answers

    async def hmget(self, key: str, *fields: str) -> list[bytes | None]:
        await self._gate("head")
        version = self.store.now(key)
        return [version.head.get(f.encode()) if version else None for f in fields]

    async def exists(self, key: str) -> int:
        return int(self.store.now(key) is not None)

    async def get(self, key: str) -> bytes | None:
        return self.store.plain.get(key)

    async def script_load(self, script: str) -> None:
        self.store.scripts.add(SHA[script])


def tag(key: str) -> str:
    """What stands between the braces: head and records of one partition share it."""
    return key[key.index("{") + 1 : key.index("}")]


def stage(key: str) -> str:
    """Of whose head or records a key is."""
    return tag(key).split(":")[2]


def encoded(value: Any) -> bytes:
    """An argument as it goes over the wire."""
    return value if isinstance(value, bytes) else str(value).encode()


def unpacked(values: bytes) -> list[bytes]:
    """What `stream.head.packed` packed."""
    assert values[:1] == b"\xdd"
    out, at = [], 5
    while at < len(values):
        assert values[at : at + 1] == b"\xdb"
        (size,) = struct.unpack_from(">I", values, at + 1)
        out.append(values[at + 5 : at + 5 + size])
        at += 5 + size
    assert len(out) == struct.unpack_from(">I", values, 1)[0]
    return out


def paired(values: list[bytes]) -> Hash:
    """A flat list of fields and values as a hash."""
    return dict(zip(values[::2], values[1::2], strict=True))
