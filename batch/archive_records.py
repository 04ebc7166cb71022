"""What a record of each topic becomes in Parquet. Ids of hashed entities are hashed here too: no raw one gets in."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
import polars as pl

from batch.lake import ACCEPTED, BROKER_MS, EPOCH, KEY, OFFSET, PARKED, PARTITION, ROW, STATUS, VALUE, frame_of
from riskflow.columns import Column, Columns, Text, concat, n_rows
from riskflow.declare import CATEGORY, TEXT, Feed
from riskflow.errors import EventRejected
from riskflow.evaluate import ID, TIME
from riskflow.events import Decoder
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.wire import columns_of, decode, read_header

Record = Any
BAD = "bad"


class Frames(Protocol):
    """How records of a topic become a table; records of different shapes go into different files."""

    def shape(self, record: Record) -> Any: ...

    def frame(self, records: list[Record]) -> tuple[pl.DataFrame, int]: ...


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
            message = msgspec.json.decode(value)
            found = {f: message[f] for f in self._fields if message.get(f) is not None}
            hidden = {f: self._decoder.entity(found[f], self._entities[f]) for f in found}
            return msgspec.json.encode({**message, **hidden})
        except (msgspec.DecodeError, AttributeError, EventRejected, RecursionError):
            return None

    def key(self, key: bytes | None) -> bytes | None:
        return key if self._decoder is None else None


def base(records: list[Record]) -> dict[str, pl.Series]:
    """Where each record stands and when the broker took it."""
    return {
        PARTITION: pl.Series([r.partition for r in records], dtype=pl.Int32),
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

    def frame(self, records: list[Record]) -> tuple[pl.DataFrame, int]:
        decoded = [self._message(r) for r in records]
        out = base(records)
        out[KEY] = pl.Series([self._hide.key(r.key) for r in records], dtype=pl.Binary)
        out[VALUE] = pl.Series([self._hide(r.value) for r in records], dtype=pl.Binary)
        out[STATUS] = pl.Series([status for _, status in decoded], dtype=pl.String)
        readable = np.array([message is not None for message, _ in decoded], np.bool_)
        columns = self._decoder.columns([message for message, _ in decoded if message is not None])
        for name, kind in self._columns():
            out[name] = _spread(columns[name], readable, kind)
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


def _spread(column: Column, rows: Any, kind: Any) -> pl.Series:
    """A column of some of the rows, with nulls in the others."""
    values = iter(column.strings() if isinstance(column, Text) else column.tolist())
    return pl.Series([next(values) if there else None for there in rows], dtype=kind)


class RowFrames:
    """Blocks of full rows as real columns; a bundle or plan with other columns begins another file."""

    def shape(self, record: Record) -> Any:
        try:
            return tuple(columns_of(read_header(record.value)[0]))
        except (ValueError, TypeError):
            return BAD

    def frame(self, records: list[Record]) -> tuple[pl.DataFrame, int]:
        blocks = [block for r in records if (block := block_rows(r)) is not None]
        if not blocks:
            return pl.DataFrame({OFFSET: pl.Series([], dtype=pl.Int64)}), len(records)
        return frame_of(concat(blocks)), len(records) - len(blocks)


def block_rows(record: Record) -> Columns | None:
    """A block's rows with where each stands on this topic; None for what is not a block."""
    try:
        columns, meta = decode(record.value)
    except (ValueError, TypeError, KeyError):
        return None
    n = n_rows(columns)
    columns[PARTITION] = np.full(n, record.partition, np.int32)
    columns[OFFSET] = np.full(n, record.offset, np.int64)
    columns[ROW] = np.arange(n, dtype=np.int32)
    columns[BROKER_MS] = np.full(n, record.timestamp, np.int64)
    columns[EPOCH] = np.full(n, meta["epoch"], np.int64)
    return columns


class ScoreFrames:
    """Scores: the fields of their JSON, and from the headers when, by which epoch and which worker."""

    FIELDS = (
        ("event_id", pl.String), ("score", pl.Float64), ("band", pl.String), ("action", pl.String),
        ("bundle", pl.Int64), ("occurred_at", pl.Int64),
    )  # fmt: skip
    LISTS = ("reasons", "degraded")

    def shape(self, record: Record) -> Any:
        return None

    def frame(self, records: list[Record]) -> tuple[pl.DataFrame, int]:
        scores = [_object(r.value) for r in records]
        headers = [dict(r.headers) for r in records]
        out = base(records)
        for name, kind in self.FIELDS:
            out[name] = pl.Series([s.get(name) for s in scores], dtype=kind, strict=False)
        for name in self.LISTS:
            out[name] = pl.Series([json.dumps(s.get(name, [])) for s in scores], dtype=pl.String)
        out["positions"] = pl.Series([json.dumps(s.get("positions", {})) for s in scores], dtype=pl.String)
        out["decided_at"] = pl.Series([_number(h.get("decided-at")) for h in headers], dtype=pl.Int64)
        out[EPOCH] = pl.Series([_number(h.get("epoch")) or 0 for h in headers], dtype=pl.Int64)
        out["worker"] = pl.Series([_text(h.get("worker")) for h in headers], dtype=pl.String)
        bad = [not s for s in scores]
        out[VALUE] = pl.Series([r.value if b else None for r, b in zip(records, bad, strict=True)], dtype=pl.Binary)
        return pl.DataFrame(out), sum(bad)


class ShadowFrames:
    """Opinions: one row for what each alias said of an event, beside what was decided; the epoch from the headers."""

    def shape(self, record: Record) -> Any:
        return None

    def frame(self, records: list[Record]) -> tuple[pl.DataFrame, int]:
        found = [(r, said, i, other) for r in records for said in [_object(r.value)] for i, other in _others(said)]
        out = base([r for r, *_ in found])
        out[ROW] = pl.Series([i for _, _, i, _ in found], dtype=pl.Int32)
        for name, kind in (("event_id", pl.String), ("occurred_at", pl.Int64)):
            out[name] = pl.Series([said.get(name) for _, said, _, _ in found], dtype=kind, strict=False)
        kinds = {"alias": pl.String, "bundle": pl.Int64, "score": pl.Float64, "band": pl.String, "action": pl.String}
        for name, kind in kinds.items():
            out[name] = pl.Series([other.get(name) for *_, other in found], dtype=kind, strict=False)
        for name in ("bundle", "score", "action"):
            decided = [said.get("decided", {}).get(name) for _, said, _, _ in found]
            out[f"decided_{name}"] = pl.Series(decided, dtype=kinds[name], strict=False)
        epochs = [_number(dict(r.headers).get("epoch")) or 0 for r, *_ in found]
        out[EPOCH] = pl.Series(epochs, dtype=pl.Int64)
        return pl.DataFrame(out), len(records) - len({r.offset for r, *_ in found})


def _others(said: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """What each of the others said; nothing where the message is no such thing."""
    others = said.get("others")
    if not isinstance(others, list) or not isinstance(said.get("decided"), dict):
        return []
    return [(i, other) for i, other in enumerate(others) if isinstance(other, dict)]


class External(msgspec.Struct):
    """What another system says of an event."""

    event_id: str
    score: float
    system: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,62}$")]
    action: str | None = None
    at: int | datetime | None = None  # when it said so: ms since 1970, or RFC 3339


class ExternalFrames:
    """Scores of other systems. What is none is kept as bytes, beside the reason."""

    def shape(self, record: Record) -> Any:
        return None

    def frame(self, records: list[Record]) -> tuple[pl.DataFrame, int]:
        found = [_external(r.value) for r in records]
        out = base(records)
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
        return msgspec.json.decode(value or b"", type=External)
    except msgspec.DecodeError as error:
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

    def frame(self, records: list[Record]) -> tuple[pl.DataFrame, int]:
        out = base(records)
        headers = [dict(r.headers) for r in records]
        out[KEY] = pl.Series([r.key for r in records], dtype=pl.Binary)
        out[VALUE] = pl.Series([self._hide(r.value) for r in records], dtype=pl.Binary)
        for name in self.HEADERS:
            out[name.replace("-", "_")] = pl.Series([_text(h.get(name)) for h in headers], dtype=pl.String)
        return pl.DataFrame(out), 0


def _object(value: bytes | None) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(value or b"")
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


__all__ = ["BAD", "Frames", "block_rows", "framing"]
