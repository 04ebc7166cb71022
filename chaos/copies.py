"""Which messages are copies: a plain model of the last 32 ids of each entity, in the order of its logs.

Who is not seen while the newest day of his partition goes on by more than the time to live is dead: what comes of him
then is new. A generation begins with the newest day at which any of its entities was seen.

Each generation decides in the order of its own logs. One that was made beside another begins with what the other one
had taken up to some offset of each feed, counts what comes behind it in an order of its own, and what it decides is
decisive from the cut on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.generations import Generations, Offsets
from chaos import observer
from chaos.observer import Logs, Places
from riskflow.plan import Plan

RING = 32
NOTHING, NEW, DUPLICATE, CONFLICT = 0, 1, 2, 3
Mask = NDArray[np.bool_]


@dataclass
class Known:
    """Of one entity: what its last ids were, each with whether it had other content, and when it was seen."""

    ids: list[tuple[tuple[bool, bytes], bool]] = field(default_factory=list)
    seen: int = 0  # newest day of its partition by then


Rings = dict[bytes, Known]


class Copies:
    """Reads the first entity's logs of all generations."""

    def __init__(
        self, plan: Plan, generations: Generations, logs: Logs, places: Places, events: Mask, other: Mask
    ) -> None:
        """events: of each place whether a scored event stands there; other: whether its content is not its id's."""
        self._plan, self._generations, self._logs, self._places = plan, generations, logs, places
        self._events, self._other = events.tolist(), other.tolist()
        self._out = np.zeros(places.size, np.uint8)
        self.again = 0  # rows that stand on a log twice
        self.longest_again = 0  # the most of them that one worker sent at once, of one partition of a feed to another
        self.rebuilt = False  # some rows were folded without a log

    def verdicts(self, last: int) -> NDArray[np.uint8]:
        """Of each place: new, a copy of one of the last 32 of its entity, or the same id with other content."""
        rings: Rings = {}
        before: Rings = {}
        taken_over = 0
        for generation in sorted({1, *self._generations.known()}):
            if generation > last:
                break
            start, cut = self._generations.start(generation), self._generations.cut(generation)
            if start.beside and cut is not None:
                rings = _copied(before)
                self._fold(taken_over, rings, self._standing_before(start.feeds), decisive=None)
                before = _copied(rings)
                everything = np.ones(self._places.size, np.bool_)
                self._fold(generation, rings, everything, decisive=~self._standing_before(cut.feeds))
            else:
                self.rebuilt |= generation > 1
                before = _copied(rings)
                self._fold(generation, rings, self._out == NOTHING, decisive=self._out == NOTHING)
            taken_over = generation
        return self._out

    def _fold(self, generation: int, rings: Rings, wanted: Mask, decisive: Mask | None) -> None:
        """Goes through a generation's logs. decisive: whose verdicts count; None: nobody's, only rings are wanted."""
        seen = ~wanted
        names = self._generations.at(generation)
        repeated = Repeated(self._places)
        days = Days(rings, self._plan.stages[0].layout.live_days)
        for partition, place, entity, name, day in observer.read_first_log(self._plan, names, self._logs, self._places):
            repeated.add(partition, place, bool(seen[place]))
            if seen[place]:
                continue
            seen[place] = True
            known = days.of(partition, entity)
            verdict = _decide(known.ids, (self._events[place], name), self._other[place])
            if verdict == NEW:
                days.see(partition, known, day)
            if decisive is not None and decisive[place]:
                self._out[place] = verdict
        if decisive is not None:
            self.again += repeated.rows
            self.longest_again = max(self.longest_again, repeated.longest)

    def _standing_before(self, feeds: Offsets) -> Mask:
        out = np.zeros(self._places.size, np.bool_)
        for feed, offsets in feeds.items():
            kind = self._plan.kind(feed)
            for partition, offset in offsets.items():
                first = self._places.of(kind, int(partition), 0)
                out[first : first + offset] = True
        return out


def _copied(rings: Rings) -> Rings:
    return {entity: Known(list(known.ids), known.seen) for entity, known in rings.items()}


class Days:
    """How far each partition of a generation is, and so who is dead."""

    def __init__(self, rings: Rings, live_days: int) -> None:
        self._rings, self._live_days = rings, live_days
        begun = max((known.seen for known in rings.values()), default=0)
        self._newest: dict[int, int] = defaultdict(lambda: begun)

    def of(self, partition: int, entity: bytes) -> Known:
        """What is known of an entity, where a row of it comes next; nothing when it is dead."""
        known = self._rings.setdefault(entity, Known())
        if self._newest[partition] - known.seen > self._live_days:
            known = self._rings[entity] = Known()
        return known

    def see(self, partition: int, known: Known, day: int) -> None:
        """A row that counts came on this day."""
        known.seen = self._newest[partition] = max(self._newest[partition], day)


class Repeated:
    """Rows of a log that stood on it before, and the longest run of them: a source that went back begins another."""

    def __init__(self, places: Places) -> None:
        self.rows = self.longest = 0
        self._source = places.sources().tolist()
        self._partition = -1
        self._last: dict[int, tuple[int, int]] = {}  # source -> its last place, and how long its run is by now

    def add(self, partition: int, place: int, seen: bool) -> None:
        if partition != self._partition:
            self._partition, self._last = partition, {}
        source = self._source[place]
        last, run = self._last.get(source, (-1, 0))
        run = 0 if not seen else 1 if place <= last else run + 1
        self._last[source] = place, run
        self.rows += seen
        self.longest = max(self.longest, run)


def _decide(ring: Any, name: tuple[bool, bytes], other: bool) -> int:
    for known, content in ring:
        if known == name:
            return DUPLICATE if content == other else CONFLICT
    ring.append((name, other))
    if len(ring) > RING:
        del ring[0]
    return NEW
