"""One generation takes over from another: whatever is paused where, each message is scored by exactly one of them.

Workers of both generations, workers that lost their partition and send all the same, the command that cuts, and a log
that grows take turns in an order that a seed decides. Rules are switched off to see that they are missed.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from riskflow.errors import Leave
from riskflow.names import Names
from riskflow.state import BEHIND, UNTIL, new_head
from stream import gate, head
from stream.batch import Batch
from stream.head import SHA, Head
from tests.model.store import Client, Store, Version, tag

OLD, NEW = Names("u", 1), Names("u", 2)
FEED, MESSAGES, HOLD_MS = "events", 60, 20
BEGIN = 5  # what stands before was counted before the new generation was made


class World:
    """One partition of a feed, a head of it in each generation, and who scored what."""

    def __init__(self, seed: int) -> None:
        self.random, self.store = random.Random(seed), Store()
        self.store.scripts.update(SHA.values())
        self.end = BEGIN
        self.old: list[int] = []
        self.new: list[int] = []
        self.counted: list[int] = []
        for names, position, more in ((OLD, 0, {}), (NEW, BEGIN, {BEHIND: 1})):
            stored = {k.encode(): str(v).encode() for k, v in {**new_head(position, "t", "l"), **more}.items()}
            self.store.partitions[tag(names.head(FEED, 0))] = [Version(0, stored, {})]

    async def turn(self, _: object = None) -> None:
        """Others go on for a while."""
        for _ in range(self.random.choice((0, 0, 1, 2, 5, 20))):
            self.store.clock_ms += 1
            await asyncio.sleep(0)

    def value(self, names: Names, name: str) -> int:
        version = self.store.now(names.head(FEED, 0))
        assert version is not None
        return int(version.head.get(name.encode(), b"-1"))

    # who acts

    async def produce(self) -> None:
        while self.end < MESSAGES:
            await self.turn()
            self.end += self.random.randrange(4)

    async def work(self, names: Names) -> None:
        """Workers one after another; each loses its partition to the next one at some place."""
        while not self.done(names):
            client: Any = Client(self.store, self.turn)
            mine = await Head.claim(client, names, FEED, 0, "t")
            with suppress(Leave):
                await self._batches(mine, self.random.randrange(1, 12))

    async def _batches(self, mine: Head, batches: int) -> None:
        for _ in range(batches):
            if self.done(mine.names) or mine.ended:
                return
            await self.turn()
            if mine.position < self.end:
                await self._batch(mine)

    async def _batch(self, mine: Head) -> None:
        upto = self.random.randint(mine.position + 1, max(mine.position + 1, self.end))
        records: Any = [SimpleNamespace(offset=o, value=b"") for o in range(mine.position, min(upto, self.end))]
        left = [Batch(mine, records)]
        while left:
            parts = await gate.parts(left)
            if self.random.random() < 0.3:  # paused here; somebody else goes on, and this one sends what it has
                asyncio.get_running_loop().create_task(self._send_late(parts, mine.names))
                raise Leave("paused")
            await self.turn()
            self._send(parts, mine.names)
            await self.turn()
            await head.commit([head.Commit(mine, p.batch.end) for p in parts])
            left = [p.rest for p in parts if p.rest is not None]

    async def _send_late(self, parts: Any, names: Names) -> None:
        for _ in range(self.random.randrange(200)):
            await asyncio.sleep(0)
        self._send(parts, names)

    def _send(self, parts: Any, names: Names) -> None:
        for part in parts:
            offsets = [r.offset for r in part.batch.records]
            (self.old if names == OLD else self.counted if part.held else self.new).extend(offsets)

    def done(self, names: Names) -> bool:
        if self.end < MESSAGES:
            return False
        until = self.value(OLD, UNTIL)
        return self.value(names, "position") >= (self.end if names == NEW else until) and until >= 0

    async def switch(self) -> None:
        """The steps of batch/switch.py."""
        for _ in range(self.random.randrange(300)):
            await asyncio.sleep(0)
        cut = None
        while cut is None:
            self.hold()
            await self.turn()
            end = self.end
            await self.turn()
            cut = self.store.cut(OLD.head(FEED, 0), end)
        await self.wait_and_let_in(int(cut))

    async def wait_and_let_in(self, cut: int) -> None:
        while self.value(NEW, "position") < cut:
            await asyncio.sleep(0)
        self.let_in()

    def hold(self) -> None:
        self.store.hold(OLD.head(FEED, 0), HOLD_MS)

    def let_in(self) -> None:
        key = NEW.head(FEED, 0)
        version = self.store.now(key)
        assert version is not None
        head = {k: v for k, v in version.head.items() if k != BEHIND.encode()}
        self.store.write(key, Version(0, head, version.records, version.owner))

    async def run(self) -> None:
        await asyncio.gather(self.produce(), self.work(OLD), self.work(NEW), self.switch())
        for _ in range(400):  # those that send late
            await asyncio.sleep(0)

    def wrong(self) -> str:
        """What is not as it must be; nothing where all is well."""
        old, new, counted = set(self.old), set(self.new), set(self.counted)
        if old & new:
            return f"scored by both: {sorted(old & new)}"
        if old | new != set(range(self.end)):
            return f"scored by none: {sorted(set(range(self.end)) - old - new)}"
        if new | counted != set(range(BEGIN, self.end)) or new & counted:
            return "the new generation did not count each message once"
        return ""


def outcome(seed: int, kind: type[World] = World) -> str:
    world = kind(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate.asyncio, "sleep", _no_time(world))
        asyncio.run(asyncio.wait_for(world.run(), 5))
    return world.wrong()


def _no_time(world: World) -> Any:
    """Waiting takes a turn of the loop and a few milliseconds of Redis' clock."""
    sleep = asyncio.sleep

    async def short(seconds: float) -> None:
        world.store.clock_ms += 1
        await sleep(0)

    return short


def test_each_message_is_scored_by_one_of_two_generations() -> None:
    for seed in range(300):
        assert outcome(seed) == "", seed


class NoHold(World):
    """The cut is made where the log ended a moment ago, while workers go on."""

    async def switch(self) -> None:
        for _ in range(self.random.randrange(300)):
            await asyncio.sleep(0)
        end = self.end
        await self.turn()
        self.store.hold(OLD.head(FEED, 0), HOLD_MS)
        self.store.cut(OLD.head(FEED, 0), end)
        await self.wait_and_let_in(end)


def test_a_cut_without_a_hold_is_noticed() -> None:
    assert any(_ends_wrong(seed, NoHold) for seed in range(60))


def test_a_new_generation_that_does_not_ask_the_old_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(head: Head, generation: int) -> gate.Gate:
        return gate.Gate(None, 0.0, None)

    monkeypatch.setattr(gate, "_look_at", nobody)
    assert any(_ends_wrong(seed) for seed in range(20))


def test_nothing_is_taken_while_the_old_generation_is_held() -> None:
    """It may be cut before what is being taken: the rest of it would be scored by nobody."""
    mine: Any = SimpleNamespace(position=5)
    batch = Batch(mine, [], 9)
    assert gate._beside(batch, gate.Gate(None, 1.0, None)) == (None, gate.LOOK_S)
    assert gate._beside(batch, gate.Gate(None, 0.0, None)) == (gate.Part(batch, held=True), 0.0)
    assert gate._beside(batch, gate.Gate(5, 0.0, None)) == (None, gate.LOOK_S), "at the cut it waits to be let in"


def _ends_wrong(seed: int, kind: type[World] = World) -> bool:
    try:
        return outcome(seed, kind) != ""
    except TimeoutError:
        return True
