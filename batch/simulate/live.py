"""A world as a stream: from a cut on, events and labels as messages with the moment each is due.

Two clocks must not be mixed up. *Due* is the wall clock: when a message is to be sent. *Event time* is what the
message says. A demo wants hundreds of events a second from a world that makes a few a minute, so by default
(`stamp="world"`) event times stay as they are and only run faster than the wall: windows, rhythms and delays keep
their meaning, a model trained on the history before the cut fits the stream, and a world that ends now is never in
the future. `stamp="wall"` writes the due moment into the message instead: times look live, but a week of habits is
squeezed into minutes, so windows see another world than the one trained on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Literal, NamedTuple

import polars as pl

from batch.produce import as_json
from batch.simulate.world import World
from riskflow.errors import DeclarationError

LABELS, EVENTS = "labels", "events"
TIME_OF = {EVENTS: "occurred_at_ms", LABELS: "labelled_at_ms"}


class Message(NamedTuple):
    """One message of a feed; `due_ms` is UTC epoch on the wall clock."""

    feed: str
    key: bytes
    value: bytes
    due_ms: float


def live(
    world: World,
    from_ms: int,
    rate_per_s: float | None = None,
    *,
    begin_ms: float,
    speed: float | None = None,
    stamp: Literal["world", "wall"] = "world",
) -> Iterator[Message]:
    """What happens in the world from `from_ms` to its end, the first message due at `begin_ms`.

    Either `rate_per_s` events a second, evenly, labels in between at no cost; or `speed` seconds of the world in a
    second, which keeps the rhythm of day and night. Labels of events before the cut are there if they fall after it.
    """
    if (rate_per_s is None) == (speed is None) or not (rate_per_s or speed or 0) > 0:
        raise DeclarationError("live()", f"rate_per_s={rate_per_s}, speed={speed}", "Give one of them, above 0")
    events = 0
    for at_ms, feed, row in _merged(world, from_ms):
        due_ms = begin_ms + (events * 1000 / rate_per_s if rate_per_s else (at_ms - from_ms) / speed)
        row[TIME_OF[feed]] = at_ms if stamp == "world" else int(due_ms)
        events += feed == EVENTS
        yield Message(feed, row["event_id"].encode(), as_json(row), due_ms)


def _merged(world: World, from_ms: int) -> Iterator[tuple[int, str, dict]]:
    """Rows of both feeds in order of time; at equal times labels come first."""
    feeds = [_rows(world.labels, LABELS, from_ms, world.end_ms), _rows(world.events, EVENTS, from_ms, world.end_ms)]
    return heapq.merge(*feeds, key=lambda row: row[0])  # equal keys come in the order of the arguments


def _rows(table: pl.DataFrame, feed: str, from_ms: int, end_ms: int) -> Iterator[tuple[int, str, dict]]:
    time = TIME_OF[feed]
    part = table.filter(pl.col(time).is_between(from_ms, end_ms, closed="left"))
    return ((row[time], feed, row) for row in part.iter_rows(named=True))
