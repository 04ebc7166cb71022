"""What a record of each topic becomes in Parquet. Ids of hashed entities are hashed here too: no raw one gets in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import numpy as np
import polars as pl

from batch.lake import (
    ACCEPTED,
    BROKER_MS,
    EPOCH,
    KEY,
    OFFSET,
    PARKED,
    PARTITION,
    ROW,
    STATUS,
    VALUE,
    frame_of,
    series_of,
)
from riskflow.declare import CATEGORY, TEXT, Feed
from riskflow.errors import EventRejected
from riskflow.evaluate import ID, TIME
from riskflow.events import Decoder
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.wire import decode, decode_all, read_header

Record = Any
T = TypeVar("T")
BAD = "bad"
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what a column of whole numbers holds
MOST_DIGITS = 18  # of such a number in a header
NO_BLOCK = (ValueError, TypeError, KeyError)  # what the reader of blocks raises for anything else


class Frames(Protocol):
    """How records of a topic become a table; records of different shapes go into different files."""

    def shape(self, record: Record) -> Any: ...

    def frame(self, partition: int, records: list[Record]) -> tuple[pl.DataFrame, int]: ...


def framing(plan: Plan, names: Names, hash_key: bytes) -> dict[str, Frames]:
    """Topic -> how it is archived, for every topic of a use case that is."""
    hide = Hide(plan, hash_key)
    feeds: dict[str, Frames] = {names.feed(f.name): FeedFrames(plan, f, hash_key, hide) for f in plan.usecase.feeds}
    said: dict[str, Frames] = {names.shadow: ShadowFrames(), names.external: ExternalFrames()}
    return {**feeds, names.rows: RowFrames(), names.scores: ScoreFrames(), **said, names.rejected: RejectedFrames(hide)}


class Hide:
    """Takes raw ids of hashed entities out of messages; what cannot be read is not kept then."""

    def __init__(self, plan: Plan, hash_key: bytes) -> None:
        self._fields = [e.field for e in plan.usecase.entities if e.hashed]
        self._decoder = Decoder(plan, plan.scored, hash_key) if self._fields else None
        self._entities = {e.field: e for e in plan.usecase.entities if e.hashed}

    def __call__(self, value: bytes | None) -> bytes | None:
        if self._decoder is None or value is None:
            return value
        try:
            message = msgspec.json.decode(value.decode(errors="replace"))
            found = {f: message[f] for f in self._fields if message.get(f) is not None}
            hidden = {f: self._decoder.entity(found[f], self._entities[f]) for f in found}
            return msgspec.json.encode({**message, **hidden})
        except (msgspec.DecodeError, AttributeError, EventRejected, RecursionError):
            return None

    def key(self, key: bytes | None) -> bytes | None:
        return key if self._decoder is None else None


def base(partition: int, records: list[Record]) -> dict[str, pl.Series]:
    """Where each record stands and when the broker took it."""
    return {
        PARTITION: pl.repeat(partition, len(records), dtype=pl.Int32, eager=True),
        OFFSET: pl.Series([r.offset for r in records], dtype=pl.Int64),
        BROKER_MS: pl.Series([r.timestamp for r in records], dtype=pl.Int64),
    }


class FeedFrames:
    """Messages of producers: their bytes, and the decoded fields of those that can be taken."""

    def __init__(self, plan: Plan, feed: Feed, hash_key: bytes, hide: Hide) -> None:
        self._plan, self._feed, self._hide = plan, feed, hide
        self._decoder = Decoder(plan, feed, hash_key)
        self._needed = [e.field for e in plan.usecase.entities if not e.optional]
        if feed is not plan.scored:  # a row without ids is shown as parked, with its other fields
            self._decoder.entities = tuple(dataclasses.replace(e, optional=True) for e in plan.usecase.entities)

    def shape(self, record: Record) -> Any:
        return None

    def frame(self, partition: int, records: list[Record]) -> tuple[pl.DataFrame, int]:
        decoded = [self._message(r) for r in records]
        out = base(partition, records)
        out[KEY] = pl.Series([self._hide.key(r.key) for r in records], dtype=pl.Binary)
        out[VALUE] = pl.Series([self._hide(r.value) for r in records], dtype=pl.Binary)
        out[STATUS] = pl.Series([status for _, status in decoded], dtype=pl.String)
        readable = pl.Series([message is not None for message, _ in decoded], dtype=pl.Boolean)
        places = pl.select(pl.when(readable).then(readable.cum_sum() - 1)).to_series()  # among those that are readable
        columns = self._decoder.columns([message for message, _ in decoded if message is not None])
        for name, kind in self._columns():
            out[name] = series_of(name, columns[name]).cast(kind).gather(places)
        return pl.DataFrame(out), sum(status not in (ACCEPTED, PARKED) for _, status in decoded)

    def _message(self, record: Record) -> tuple[Any, str]:
        try:
            message = self._decoder.message(record.value, record.timestamp)
        except EventRejected as error:
            return None, error.kind
        return message, PARKED if any(getattr(message, e) is None for e in self._needed) else ACCEPTED

    def _columns(self) -> list[tuple[str, Any]]:
        kinds = {TEXT: pl.String, CATEGORY: pl.Int32}
        fields = [(n, kinds.get(k.kind, pl.Float64)) for n, k in self._feed.types.items()]
        return [(ID, pl.String), (TIME, pl.Int64), *((e, pl.String) for e in self._plan.entities), *fields]


class RowFrames:
    """Blocks of full rows as real columns; a bundle or plan with other columns begins another file."""

    def shape(self, record: Record) -> Any:
        try:
            return bytes(read_header(record.value)[0].columns)
        except (ValueError, TypeError):
            return BAD

    def frame(self, partition: int, records: list[Record]) -> tuple[pl.DataFrame, int]:
        try:
            return _rows(partition, records), 0
        except NO_BLOCK:
            good = [r for r in records if _is_block(r.value)]
            return _rows(partition, good), len(records) - len(good)


def _rows(partition: int, records: list[Record]) -> pl.DataFrame:
    """The rows of blocks of one shape, with where each stands on this topic."""
    if not records:
        return pl.DataFrame({OFFSET: pl.Series([], dtype=pl.Int64)})
    ((columns, headers),) = decode_all([r.value for r in records])
    rows = np.array([header.rows for header in headers], np.int64)
    total = int(rows.sum())
    columns[PARTITION] = np.full(total, partition, np.int32)
    columns[OFFSET] = np.repeat(np.array([r.offset for r in records], np.int64), rows)
    columns[ROW] = (np.arange(total) - np.repeat(np.cumsum(rows) - rows, rows)).astype(np.int32)
    columns[BROKER_MS] = np.repeat(np.array([r.timestamp for r in records], np.int64), rows)
    columns[EPOCH] = np.repeat(np.array([header.meta["epoch"] for header in headers], np.int64), rows)
    return frame_of(columns)


def _is_block(value: bytes | None) -> bool:
    """Whether these bytes are a whole block, as a stage sends it."""
    try:
        return "epoch" in decode(value or b"")[1]
    except NO_BLOCK:
        return False


class Said(msgspec.Struct):
    """A score, as the stream sends it; without an event it is none."""

    event_id: str | None
    score: float | None
    band: str | None
    action: str | None
    bundle: Int64 | None
    occurred_at: Int64 | None
    reasons: msgspec.Raw = msgspec.Raw(b"[]")
    degraded: msgspec.Raw = msgspec.Raw(b"[]")
    positions: msgspec.Raw = msgspec.Raw(b"{}")


class ScoreFrames:
    """Scores: the fields of their JSON, and from the headers when, by which epoch and which worker."""

    FIELDS = (
        ("event_id", pl.String), ("score", pl.Float64), ("band", pl.String), ("action", pl.String),
        ("bundle", pl.Int64), ("occurred_at", pl.Int64),
    )  # fmt: skip
    JSON = ("reasons", "degraded", "positions")
    NONE = Said(None, None, None, None, None, None)

    def shape(self, record: Record) -> Any:
        return None

    def frame(self, partition: int, records: list[Record]) -> tuple[pl.DataFrame, int]:
        found = [_decoded(_said, r.value) for r in records]
        scores = [self.NONE if said is None else said for said in found]
        headers = [dict(r.headers) for r in records]
        out = base(partition, records)
        for name, kind in self.FIELDS:
            out[name] = pl.Series(_each(scores, name), dtype=kind)
        for name in self.JSON:
            out[name] = pl.Series([bytes(raw) for raw in _each(scores, name)], dtype=pl.Binary).cast(pl.String)
        out["decided_at"] = pl.Series([_number(h.get("decided-at")) for h in headers], dtype=pl.Int64)
        out[EPOCH] = pl.Series([_number(h.get("epoch")) or 0 for h in headers], dtype=pl.Int64)
        out["worker"] = pl.Series([_text(h.get("worker")) for h in headers], dtype=pl.String)
        kept = [r.value if said is None else None for r, said in zip(records, found, strict=True)]
        out[VALUE] = pl.Series(kept, dtype=pl.Binary)
        return pl.DataFrame(out), sum(said is None for said in found)


class Decided(msgspec.Struct):
    """What was decided of an event."""

    bundle: Int64 | None = None
    score: float | None = None
    action: str | None = None


class Other(Decided):
    """What an alias says of it."""

    alias: str | None = None
    band: str | None = None


class Opinions(msgspec.Struct):
    """What all of them say of an event."""

    decided: Decided
    others: list[Other]
    event_id: str | None = None
    occurred_at: Int64 | None = None


class ShadowFrames:
    """Opinions: one row for what each alias said of an event, beside what was decided; the epoch from the headers."""

    def shape(self, record: Record) -> Any:
        return None

    def frame(self, partition: int, records: list[Record]) -> tuple[pl.DataFrame, int]:
        said = [(r, opinions) for r in records if (opinions := _decoded(_opinions, r.value)) is not None]
        found = [(r, opinions, i, other) for r, opinions in said for i, other in enumerate(opinions.others)]
        events, others = [opinions for _, opinions, *_ in found], [other for *_, other in found]
        out = base(partition, [r for r, *_ in found])
        out[ROW] = pl.Series([i for _, _, i, _ in found], dtype=pl.Int32)
        for name, kind in (("event_id", pl.String), ("occurred_at", pl.Int64)):
            out[name] = pl.Series(_each(events, name), dtype=kind)
        kinds = {"alias": pl.String, "bundle": pl.Int64, "score": pl.Float64, "band": pl.String, "action": pl.String}
        for name, kind in kinds.items():
            out[name] = pl.Series(_each(others, name), dtype=kind)
        for name in ("bundle", "score", "action"):
            out[f"decided_{name}"] = pl.Series(_each([o.decided for o in events], name), dtype=kinds[name])
        epochs = [_number(dict(r.headers).get("epoch")) or 0 for r, *_ in found]
        out[EPOCH] = pl.Series(epochs, dtype=pl.Int64)
        return pl.DataFrame(out), len(records) - sum(bool(opinions.others) for _, opinions in said)


class External(msgspec.Struct):
    """What another system says of an event."""

    event_id: str
    score: float
    system: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,62}$")]
    action: str | None = None
    at: Int64 | datetime | None = None  # when it said so: ms since 1970, or RFC 3339


class ExternalFrames:
    """Scores of other systems. What is none is kept as bytes, beside the reason."""

    def shape(self, record: Record) -> Any:
        return None

    def frame(self, partition: int, records: list[Record]) -> tuple[pl.DataFrame, int]:
        found = [_external(r.value) for r in records]
        out = base(partition, records)
        good = [said if isinstance(said, External) else None for said in found]
        for name, kind in (
            ("event_id", pl.String),
            ("system", pl.String),
            ("score", pl.Float64),
            ("action", pl.String),
        ):
            out[name] = pl.Series([None if said is None else getattr(said, name) for said in good], dtype=kind)
        out["at_ms"] = pl.Series([None if said is None else _ms(said.at) for said in good], dtype=pl.Int64)
        out[STATUS] = pl.Series([said if isinstance(said, str) else ACCEPTED for said in found], dtype=pl.String)
        bytes_of = [None if said is not None else r.value for said, r in zip(good, records, strict=True)]
        out[VALUE] = pl.Series(bytes_of, dtype=pl.Binary)
        return pl.DataFrame(out), sum(said is None for said in good)


def _external(value: bytes | None) -> External | str:
    try:
        return msgspec.json.decode((value or b"").decode(), type=External)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)


def _ms(at: int | datetime | None) -> int | None:
    if not isinstance(at, datetime):
        return at
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


class RejectedFrames:
    """What could not be taken: its bytes, and the reason from the headers."""

    HEADERS = (
        "error-type",
        "error-detail",
        "error-where",
        "stage",
        "source-topic",
        "source-partition",
        "source-offset",
    )

    def __init__(self, hide: Hide) -> None:
        self._hide = hide

    def shape(self, record: Record) -> Any:
        return None

    def frame(self, partition: int, records: list[Record]) -> tuple[pl.DataFrame, int]:
        out = base(partition, records)
        headers = [dict(r.headers) for r in records]
        out[KEY] = pl.Series([r.key for r in records], dtype=pl.Binary)
        out[VALUE] = pl.Series([self._hide(r.value) for r in records], dtype=pl.Binary)
        for name in self.HEADERS:
            out[name.replace("-", "_")] = pl.Series([_text(h.get(name)) for h in headers], dtype=pl.String)
        return pl.DataFrame(out), 0


_said = msgspec.json.Decoder(Said).decode
_opinions = msgspec.json.Decoder(Opinions).decode


def _decoded(decode: Callable[[str], T], value: bytes | None) -> T | None:
    """None for what is no such message."""
    try:
        return decode((value or b"").decode())  # raw parts are looked at by nobody else
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _each(objects: Iterable[Any], name: str) -> list[Any]:
    return list(map(attrgetter(name), objects))


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) <= MOST_DIGITS else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


__all__ = ["BAD", "Frames", "framing"]
