"""What came out, read from the real topics into columns: a million events fit into a few arrays.

Everything is known by its place in its feed (feed, partition, offset): a copy of an event has the event's id, and a
place of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from batch.read_log import read_log
from batch.topics import Cluster
from riskflow.columns import Columns
from riskflow.evaluate import ID, KIND, TIME
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, ROW_BITS
from riskflow.windows import DAY
from riskflow.wire import decode

I8 = NDArray[np.int64]


class Logs:
    """Reads whole topics."""

    def __init__(self, kafka: str) -> None:
        self._kafka = kafka
        with Cluster(kafka) as cluster:
            there = {topic: n for topic, (_, n) in cluster.topics().items()}
            self.ranges = cluster.log_ranges(there)

    def partitions(self, topic: str) -> dict[int, tuple[int, int]]:
        return {p: r for (t, p), r in self.ranges.items() if t == topic}

    def records(self, topic: str) -> Iterator[tuple[int, Any]]:
        """(partition, record); of each partition in order."""
        for partition, bounds in self.partitions(topic).items():
            if bounds[0] < bounds[1]:
                for _, records, _, _ in read_log(self._kafka, topic, {partition: bounds}):
                    yield from ((partition, r) for r in records)


class Places:
    """One value for each place of the feeds: arrays by kind and partition."""

    def __init__(self, plan: Plan, names: Names, logs: Logs) -> None:
        self._first: dict[tuple[int, int], int] = {}
        self.size = 0
        for kind, feed in enumerate(plan.usecase.feeds):
            for partition, (_, end) in sorted(logs.partitions(names.feed(feed.name)).items()):
                self._first[kind, partition] = self.size
                self.size += end

    def sources(self) -> I8:
        """Of each place the number of its feed's partition."""
        firsts = sorted(self._first.values())
        return np.repeat(np.arange(len(firsts)), np.diff([*firsts, self.size]))

    def of(self, kind: int, partition: int, offset: int) -> int:
        """The number of a place."""
        return self._first[kind, partition] + offset

    def many(self, kinds: Any, partitions: Any, offsets: Any) -> I8:
        firsts = np.zeros((1 + int(max(k for k, _ in self._first)), 1 + max(p for _, p in self._first)), np.int64)
        for (kind, partition), first in self._first.items():
            firsts[kind, partition] = first
        found: I8 = firsts[np.asarray(kinds, np.int64), np.asarray(partitions, np.int64)] + np.asarray(offsets)
        return found

    def name(self, plan: Plan, place: int) -> str:
        """For people: feed:partition:offset."""
        (kind, partition), first = max((x for x in self._first.items() if x[1] <= place), key=lambda x: x[1])
        return f"{plan.usecase.feeds[kind].name}:{partition}:{place - first}"


@dataclass
class Feeds:
    """What was sent, as it stands on the feeds: fate and number of each message, and the hash of its id."""

    fate: NDArray[np.uint8]
    number: I8
    id_hash: I8


def read_feeds(plan: Plan, names: Names, logs: Logs, places: Places) -> Feeds:
    out = Feeds(np.zeros(places.size, np.uint8), np.zeros(places.size, np.int64), np.zeros(places.size, np.int64))
    for kind, feed in enumerate(plan.usecase.feeds):
        get = msgspec.json.Decoder(msgspec.defstruct("Named", [(feed.id, str | None, None)])).decode
        for partition, record in logs.records(names.feed(feed.name)):
            place = places.of(kind, partition, record.offset)
            out.fate[place] = record.key[0]
            out.number[place] = int(record.key[1:])
            if record.key[:1] not in (b"x", b"p"):
                out.id_hash[place] = hash(getattr(get(record.value), feed.id))
    return out


class _Score(msgspec.Struct):
    event_id: str
    score: float
    bundle: int
    positions: dict[str, str]


@dataclass
class Scores:
    """Scores by the place of their event: how many, and what the effective one, of the highest epoch, says."""

    count: NDArray[np.uint16]
    value: I8  # hash of the bytes
    epoch: I8
    bundle: NDArray[np.int32]
    score: NDArray[np.float64]
    id_hash: I8
    differing: dict[int, set[int]] = field(default_factory=dict)  # place -> bundles, where bytes differ
    same_bundle: set[int] = field(default_factory=set)  # places where they differ though the bundle is the same


def read_scores(plan: Plan, names: Names, logs: Logs, places: Places) -> Scores:
    n = places.size
    out = Scores(
        np.zeros(n, np.uint16), np.zeros(n, np.int64), np.full(n, -1, np.int64), np.zeros(n, np.int32),
        np.full(n, np.nan), np.zeros(n, np.int64),
    )  # fmt: skip
    decode_score = msgspec.json.Decoder(_Score).decode
    feed = plan.scored.name
    for _, record in logs.records(names.scores):
        said = decode_score(record.value)
        partition, offset, _ = said.positions[feed].split("/")
        place = places.of(0, int(partition), int(offset))
        epoch, value = int(dict(record.headers)["epoch"]), hash(record.value)
        if out.count[place] and value != out.value[place]:
            bundles = out.differing.setdefault(place, {int(out.bundle[place])})
            if said.bundle in bundles:
                out.same_bundle.add(place)
            bundles.add(said.bundle)
        out.count[place] += 1
        if epoch > out.epoch[place]:
            out.value[place], out.epoch[place], out.bundle[place] = value, epoch, said.bundle
            out.score[place], out.id_hash[place] = said.score, hash(said.event_id)
    return out


def read_opinions(names: Names, logs: Logs, shared: Collection[int]) -> tuple[int, int, int]:
    """Events on which shadows spoke; how many messages came again; and of how many events the bytes differ.

    shared: hashes of ids that more than one scored event bears: several things are said of them, so they are left out.
    """
    said: dict[bytes, int] = {}
    again, differing = 0, set[bytes]()
    for _, record in logs.records(names.shadow):
        if hash(record.key.decode()) in shared:
            continue
        value = hash(record.value)
        again += record.key in said
        if said.setdefault(record.key, value) != value:
            differing.add(record.key)
    return len(said), again, len(differing)


def read_rejected(plan: Plan, names: Names, logs: Logs, places: Places) -> tuple[dict[int, int], int]:
    """Place -> how often it was rejected; and how many of these say another thing the second time."""
    kinds = {feed.name: kind for kind, feed in enumerate(plan.usecase.feeds)}
    found: dict[int, int] = {}
    said: dict[int, int] = {}
    differing = 0
    for _, record in logs.records(names.rejected):
        feed, partition, offset = record.key.decode().split(":")
        place = places.of(kinds[feed], int(partition), int(offset))
        value = hash((record.value, next(v for k, v in record.headers if k == "error-type")))
        differing += said.setdefault(place, value) != value
        found[place] = found.get(place, 0) + 1
    return found, differing


def read_rows(names: Names, logs: Logs) -> tuple[list[Columns], list[int]]:
    """The blocks of `rows`, and the epoch in which each was sent."""
    blocks, epochs = [], []
    for _, record in logs.records(names.rows):
        columns, meta = decode(record.value)
        blocks.append(columns)
        epochs.append(int(meta["epoch"]))
    return blocks, epochs


def places_of(places: Places, columns: Columns) -> I8:
    """The place of each row."""
    log: Any = columns[INTAKE_LOG]
    return places.many(columns[KIND], columns[INTAKE_PARTITION], log >> ROW_BITS)


def read_first_log(
    plan: Plan, names: Names, logs: Logs, places: Places
) -> Iterator[tuple[int, int, bytes, bytes, int]]:
    """(partition, place, entity, id, day) of every row on the first entity's logs, in order, sent again or not."""
    entity = plan.entities[0]
    for partition, record in logs.records(names.by(entity)):
        columns, _ = decode(record.value)
        ids: Any = columns[ID]
        entities: Any = columns[entity]
        where = places_of(places, columns).tolist()
        days = (np.asarray(columns[TIME]) // DAY).tolist()
        yield from zip(repeat(partition), where, entities.values(), ids.values(), days, strict=False)
