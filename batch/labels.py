"""`riskflow labels`: completes labels that came without entity ids, and sends them again with the same id.

Intake skips such a label, because it cannot know whom it is about; only what is on the log counts. Ids (and declared
fields such as the amount) come from the event's archived row, from its message, or from the files of a first start. A
label of an unknown event stays and is listed. A label that was sent again is on the log with its id, so a second run
sends nothing; if it did, the entity's ring of ids would drop it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import polars as pl

from batch import lake
from batch.archive import archive
from batch.generations import Generations
from batch.produce import Outgoing, send
from batch.read_log import read_at
from riskflow.declare import Feed
from riskflow.evaluate import ID, KIND
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import Settings
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, ROW_BITS


@dataclass
class Completed:
    """What was done with parked labels."""

    sent: int = 0
    pending: list[str] = field(default_factory=list)  # ids of labels whose event is not known

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"sent": self.sent, "pending": len(self.pending), "unknown": self.pending[:100]}


def complete_labels(plan: Plan, conf: Settings, *, fresh: bool = True) -> Completed:
    """Sends every label again that waits for ids and whose event is known. fresh: archive what is new first."""
    if fresh:
        archive(plan, conf)
    names = Names(plan.name, prefix=conf.topic_prefix)
    out = Completed()
    for feed in plan.usecase.feeds:
        if feed.about is not None:
            messages = list(_again(plan, names, conf, feed, out))
            out.sent += send(iter(messages), conf.kafka).messages if messages else 0
    return out


def waiting(names: Names, conf: Settings, feed: Feed) -> pl.DataFrame:
    """Parked messages, the first of each id, that no complete message with the same id followed."""
    frame = lake.read_topic(conf.lake_folder, names.feed(feed.name))
    if not len(frame):
        return frame
    parked = frame.filter(pl.col(lake.STATUS) == lake.PARKED)
    parked = parked.sort(lake.BROKER_MS, lake.PARTITION, lake.OFFSET).unique(ID, keep="first", maintain_order=True)
    return parked.join(frame.filter(pl.col(lake.STATUS) == lake.ACCEPTED), on=ID, how="anti", maintain_order="left")


def _again(plan: Plan, names: Names, conf: Settings, feed: Feed, out: Completed) -> Iterator[Outgoing]:
    found = waiting(names, conf, feed)
    if not len(found):
        return
    events = known_events(plan, names, conf, found[str(feed.about)].unique().to_list())
    _unhash(plan, names, conf, events)
    for row in found.iter_rows(named=True):
        event = events.get(row[str(feed.about)])
        message = None if event is None else completed(plan, feed, row, event)
        if message is None:
            out.pending.append(row[ID])
        else:
            yield Outgoing(names.feed(feed.name), row[lake.KEY], msgspec.json.encode(message), None)


def completed(plan: Plan, feed: Feed, row: dict[str, Any], event: dict[str, Any]) -> dict[str, Any] | None:
    """The label as it was sent, with its id, and what it lacked from its event; None if the event lacks it too."""
    message = msgspec.json.decode(row[lake.VALUE].decode(errors="replace"))  # intake reads declared fields only
    for entity in plan.usecase.entities:
        if message.get(entity.field) is None and event.get(entity.field) is not None:
            message[entity.field] = event[entity.field]
        if message.get(entity.field) is None and not entity.optional:
            return None
    for name in feed.types:
        value = event.get(name)
        if name in plan.scored.types and message.get(name) is None and value is not None and value == value:
            message[name] = value
    return {**message, feed.id: row[ID]}


def known_events(plan: Plan, names: Names, conf: Settings, ids: list[Any]) -> dict[str, dict[str, Any]]:
    """Entity ids and fields of these events; the row that counted comes before the message, and that before files."""
    wanted = pl.DataFrame({ID: ids}, schema={ID: pl.String})
    fields = [ID, INTAKE_PARTITION, INTAKE_LOG, lake.PARTITION, lake.OFFSET, *plan.entities, *plan.scored.types]
    out: dict[str, dict[str, Any]] = {}
    for frame in _sources(plan, names, conf):
        if len(frame):
            there = [f for f in fields if f in frame.columns]
            for row in frame.join(wanted, on=ID, how="semi").select(there).iter_rows(named=True):
                out.setdefault(row[ID], row)
    return out


def _unhash(plan: Plan, names: Names, conf: Settings, events: dict[str, dict[str, Any]]) -> None:
    """Ids of hashed entities as the event's message has them: the archive has hashes only, and intake hashes again."""
    hashed = [e.field for e in plan.usecase.entities if e.hashed]
    if not hashed:
        return
    places = {name: _place(event) for name, event in events.items()}
    known = [p for p in places.values() if p is not None]
    found = read_at(conf.kafka, names.feed(plan.scored.name), known)
    for name, event in events.items():
        place = places[name]
        record = found.get(place) if place is not None else None
        message = {} if record is None else msgspec.json.decode(record.value)
        event.update({field: message.get(field) for field in hashed})


def _place(event: dict[str, Any]) -> tuple[int, int] | None:
    """Where an event's message stands on its topic; events of files stand nowhere."""
    if event.get(INTAKE_LOG) is not None:
        return int(event[INTAKE_PARTITION]), int(event[INTAKE_LOG]) >> ROW_BITS
    if event.get(lake.OFFSET) is not None:
        return int(event[lake.PARTITION]), int(event[lake.OFFSET])
    return None


def _sources(plan: Plan, names: Names, conf: Settings) -> Iterator[pl.DataFrame]:
    wanted = [KIND, ID, INTAKE_PARTITION, INTAKE_LOG, *plan.entities, *plan.scored.types]
    rows = lake.read_topic(conf.lake_folder, names.rows, wanted)
    yield lake.with_words(plan.scored, rows.filter(pl.col(KIND) == 0)) if len(rows) else rows
    yield lake.read_events(plan, names, conf.lake_folder)
    generations = Generations(plan, names, conf.lake_folder)
    for generation in generations.known():
        history = generations.history(generation)
        if history is not None:
            yield lake.with_words(plan.scored, lake.frame_of(history).filter(pl.col(KIND) == 0))
