"""What is sent: a log from one seed in which the fate of every message is known beforehand.

Late and out-of-order events, copies at once and copies long after, the same id with other content, rows of every other
feed, rows without ids, and what nobody should send. A message's key carries its fate and number, so that what came out
can be judged from the topics alone, whatever a million messages long.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from riskflow.declare import CATEGORY, FLAG, NUMBER, Feed
from riskflow.plan import Plan

DAY_MS = 86_400_000
SPAN_DAYS = 19.0
STEP_MS = 40_000  # between two events, unless that would take longer than the span
BUSY = 5  # entities that a share of all events is about: their copies can come after more than 32 others
BUSY_SHARE, HOT_SHARE = 0.2, 0.5
FAR = 1_600  # events between an original and its late copy: about 60 of the same busy entity
CHUNK = 1_000
SPARE = 100_000  # events that may be sent on top

EVENT, NEAR, LATE_COPY, OTHER, ROW, WAITS, INVALID = (b"e", b"n", b"f", b"c", b"r", b"p", b"x")
VALID = (EVENT, NEAR, LATE_COPY, OTHER, ROW)  # what the first stage has to decide on


class Message(NamedTuple):
    """One message: an event, its copy at once, its late copy, the same id with other content, a row of another feed,
    one that waits for its ids, or an invalid one."""

    feed: str
    fate: bytes
    number: int
    spread: int  # a copy has its original's, so that they stand on one partition
    value: bytes | None

    @property
    def key(self) -> bytes:
        return self.fate + str(self.number).encode()


@dataclass(frozen=True)
class World:
    """Options of a log; `messages` makes it, the same again each time."""

    plan: Plan
    events: int
    seed: int
    entities: int = 2_000
    hot: bool = False  # half of all events are about one entity of each kind
    start_ms: int = 0

    @classmethod
    def of(cls, plan: Plan, events: int, seed: int, entities: int, hot: bool) -> World:
        return cls(plan, events, seed, entities, hot, int(time.time() * 1000) - 20 * DAY_MS)

    def messages(self) -> Iterator[Message]:
        """Messages in the order in which they are sent, without an end: `events` only says how dense they are."""
        return _Maker(self).messages()


class _Maker:
    """One pass over a world."""

    def __init__(self, world: World) -> None:
        self.world, self.plan = world, world.plan
        self.rng = np.random.default_rng(world.seed)
        self.feeds = list(world.plan.usecase.feeds)
        self.step_ms = min(STEP_MS, int(SPAN_DAYS * DAY_MS / (world.events + SPARE)))
        self.end_ms = world.start_ms + int((SPAN_DAYS + 0.9) * DAY_MS)
        self.conflicts_left = min(50, world.events // 200)  # 16 bits tell contents apart: few, so that none is missed
        self.lately: deque[dict[str, Any]] = deque(maxlen=5_000)  # events that labels may be about
        self.busy: deque[tuple[int, Message]] = deque()
        self.number = 0

    def messages(self) -> Iterator[Message]:
        for first in count(0, CHUNK):
            chance = self.rng.random((CHUNK, 5))
            for i, event in enumerate(self._events(first, CHUNK)):
                yield from self._around(first + i, event, chance[i])

    def _around(self, i: int, event: dict[str, Any], chance: Any) -> Iterator[Message]:
        """An event, and what comes right behind it."""
        scored = self.feeds[0]
        original = self._message(scored, EVENT, event, event[scored.id])
        yield original
        self.lately.append(event)
        if int(str(event[self.plan.entities[0]])[1:]) < BUSY:
            self.busy.append((i, original))
        if chance[0] < 0.01:
            yield self._again(NEAR, original)
        if chance[1] < 0.004 and self.conflicts_left:
            self.conflicts_left -= 1
            yield self._message(scored, OTHER, self._changed(event), event[scored.id])
        if chance[2] < 0.06:
            yield self._other_feed()
        if chance[3] < 0.005:
            yield self._message(scored, INVALID, invalid(scored, event, self.rng), f"invalid {i}")
        if chance[4] < 0.005:
            while self.busy and self.busy[0][0] < i - FAR - 400:
                self.busy.popleft()
            if self.busy and self.busy[0][0] <= i - FAR:
                yield self._again(LATE_COPY, self.busy.popleft()[1])

    def _events(self, first: int, n: int) -> Iterator[dict[str, Any]]:
        rng, feed = self.rng, self.feeds[0]
        late = np.where(rng.random(n) < 0.05, rng.integers(0, 2 * DAY_MS, n), rng.integers(0, 90_000, n))
        late = np.where(rng.random(n) < 0.002, rng.integers(0, 60 * DAY_MS, n), late)
        at_ms = self.world.start_ms + np.arange(first, first + n) * self.step_ms - late
        ids = [self._entities(k, n) for k in range(len(self.plan.entities))]
        fields = {name: self._values(kind, n) for name, kind in feed.types.items()}
        for i in range(n):
            event: dict[str, Any] = {feed.id: f"e{first + i}", feed.at: int(at_ms[i])}
            event |= {e: ids[k][i] for k, e in enumerate(self.plan.entities)}
            event |= {name: values[i] for name, values in fields.items()}
            yield event

    def _entities(self, k: int, n: int) -> list[Any]:
        """Ids of one entity: texts of the first, numbers of the others."""
        rng, there = self.rng, max(BUSY + 1, self.world.entities // (1 + 2 * k))
        drawn = np.where(rng.random(n) < BUSY_SHARE, rng.integers(0, BUSY, n), rng.integers(0, there, n))
        if self.world.hot:
            drawn = np.where(rng.random(n) < HOT_SHARE, 0, drawn)
        return [f"{'c' if k == 0 else ''}{x}" if k == 0 else int(x) for x in drawn.tolist()]

    def _values(self, kind: Any, n: int) -> list[Any]:
        if kind.kind == NUMBER:
            return np.round(self.rng.gamma(1.0, 60.0, n), 2).tolist()
        if kind.kind == FLAG:
            return (self.rng.random(n) < 0.3).tolist()
        if kind.kind == CATEGORY:
            return [kind.values[i] for i in self.rng.integers(0, len(kind.values), n)]
        return [f"word {i}" for i in self.rng.integers(0, 50, n)]

    def _other_feed(self) -> Message:
        """A row of one of the other feeds, about an event of lately; some do not say whose they are."""
        feed = self.feeds[int(self.rng.integers(1, len(self.feeds)))] if len(self.feeds) > 1 else None
        if feed is None:
            return self._message(self.feeds[0], INVALID, b"null", "no other feed")
        about = self.lately[int(self.rng.integers(0, len(self.lately)))]
        row = {name: self._values(kind, 1)[0] for name, kind in feed.types.items()}
        shared = {name: about[name] for name in about if name in feed.types and name != feed.id}
        known_ms = min(about[self.feeds[0].at] + int(self.rng.integers(1, 3 * DAY_MS)), self.end_ms)
        row |= shared | {feed.id: f"{feed.name}{self.number}", feed.at: known_ms}
        if feed.about is not None:
            row[feed.about] = about[self.feeds[0].id]
        if feed.about is not None and self.rng.random() < 0.05:
            return self._message(feed, WAITS, row, row[feed.id])
        return self._message(feed, ROW, row | {e: about[e] for e in self.plan.entities}, row[feed.id])

    def _changed(self, event: dict[str, Any]) -> dict[str, Any]:
        """The same id, other content."""
        name = next(n for n, k in self.feeds[0].types.items() if k.kind == NUMBER)
        return event | {name: event[name] + 1.0}

    def _message(self, feed: Feed, fate: bytes, content: Any, spread: str) -> Message:
        value = content if isinstance(content, bytes | None) else msgspec.json.encode(content)
        self.number += 1
        return Message(feed.name, fate, self.number, crc32(spread.encode()), value)

    def _again(self, fate: bytes, original: Message) -> Message:
        self.number += 1
        return original._replace(fate=fate, number=self.number)


def invalid(feed: Feed, event: dict[str, Any], rng: np.random.Generator) -> bytes | None:
    """One of the many ways in which a message cannot be taken: broken, hostile, or too large."""
    encode = msgspec.json.encode
    good = encode(event)
    number = next(n for n, k in feed.types.items() if k.kind == NUMBER)
    ways: list[Any] = [
        good[:-7], b"", b"null", b"\xff\xfe" + good, b"[" * 5_000, None,
        encode({k: v for k, v in event.items() if k != feed.at}),
        encode(event | {feed.at: event[feed.at] // 1000}),
        encode(event | {feed.at: int(time.time() * 1000) + DAY_MS}),
        encode(event | {feed.id: "x" * 129}),
        encode(event | {number: "many"}),
        good[:-1] + b',"' + number.encode() + b'": 1e999}',
        encode(event | {"deep": [[[[[[[[[[1]]]]]]]]]]}),
        encode(event | {f"f{i}": i for i in range(300)}),
        encode(event | {"padding": "x" * 70_000}),
        encode(event | {"padding": "x" * 900_000}) if rng.random() < 0.1 else b"\x00" * 100,
    ]  # fmt: skip
    return ways[int(rng.integers(0, len(ways)))]
