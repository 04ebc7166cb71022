"""The contract of what producers send: typed decode, limits, and the columns that come out.

A message that cannot be taken raises EventRejected with a kind, a detail and the place; the caller sends it to
`rejected` and goes on. Fields that a feed does not declare are ignored.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import numpy as np

from riskflow.columns import Columns, Text
from riskflow.declare import CATEGORY, FLAG, TEXT, Entity, Feed, FieldType
from riskflow.errors import EventRejected
from riskflow.evaluate import ID, KIND, TIME, empty_field
from riskflow.plan import Plan
from riskflow.record_batches import Unreadable

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_FIELDS = 200
MAX_ID_CHARS = 128
MAX_TEXT_CHARS = 1024
AHEAD_MS = 5 * 60_000
EARLIEST_MS, LATEST_MS = 10**11, 253_402_300_799_000  # below: somebody sent seconds; above: year 10,000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

Id = Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARS)] | int
Moment = Annotated[datetime, msgspec.Meta(tz=True)] | int
Shorter = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]


class Parked(Exception):
    """A row of a feed without the ids it needs: batch sends it again, completed."""


class Decoder:
    """Decodes messages of one feed into rows and rows into columns. `hash_key` is needed when an entity is hashed."""

    def __init__(self, plan: Plan, feed: Feed, hash_key: bytes = b"") -> None:
        self.plan, self.feed = plan, feed
        self.entities = plan.usecase.entities
        self.scored = feed is plan.scored
        self.types = feed.types
        self._hash_key = hash_key
        self._getters = [self._getter(name, kind) for name, kind in self.types.items()]
        self._decode = msgspec.json.Decoder(self._struct()).decode

    def row(self, value: bytes | None, broker_ms: int) -> tuple[Any, ...]:
        """(id, at_ms, entity ids..., fields...) of a message; raises EventRejected or Parked.

        broker_ms: the record's timestamp; an event time more than 5 minutes ahead of it is refused.
        """
        if value is None:
            raise EventRejected("null_value", "the record has no value; send the event as JSON")
        if isinstance(value, Unreadable):
            raise EventRejected(value.kind, value.why)
        if len(value) > MAX_BYTES:
            raise EventRejected("too_large", f"{len(value)} bytes, at most {MAX_BYTES} are taken")
        if value.count(b":") > MAX_FIELDS or value.count(b"{") + value.count(b"[") > MAX_DEPTH:
            _check_shape(value)
        try:
            message = self._decode(value)
        except msgspec.ValidationError as error:
            raise _invalid(error) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise EventRejected("broken_json", str(error)) from None
        at_ms = _time(getattr(message, self.feed.at), self.feed.at, broker_ms)
        ids = [self._entity(message, e) for e in self.entities]
        fields = [get(message) for get in self._getters]
        if self.feed.currency:
            self._convert(message, fields)
        row_id = getattr(message, self.feed.id)
        if row_id is msgspec.UNSET or row_id is None:
            row_id = self._default_id(message, at_ms)
        return (str(row_id), at_ms, *ids, *fields)

    def columns(self, rows: Sequence[tuple[Any, ...]]) -> Columns:
        """The columns of decoded rows, with empty columns for the fields of other feeds."""
        n = len(rows)
        parts = list(zip(*rows, strict=True))
        out: Columns = {
            KIND: np.full(n, self.plan.kind(self.feed.name), np.int8),
            ID: Text.of_strings(parts[0]),
            TIME: np.array(parts[1], np.int64),
        }
        for i, entity in enumerate(self.entities):
            out[entity.field] = Text.of_strings(parts[2 + i])
        mine = dict(zip(self.types, parts[2 + len(self.entities) :], strict=True))
        for name, kind in self.plan.fields.items():
            out[name] = _column(kind, mine[name]) if name in mine else empty_field(kind.kind, n)
        return out

    # one message

    def _struct(self) -> type[msgspec.Struct]:
        fields: list[Any] = [self._field(self.feed.id, Id, optional=self.feed.about is not None)]
        fields.append(self._field(self.feed.at, Moment, optional=False))
        named = {self.feed.id, self.feed.at}
        for entity in self.entities:
            optional = entity.optional or not self.scored
            fields.append(self._field(entity.field, Id, optional))
        for name, kind in self.types.items():
            if name not in named:
                fields.append(self._field(name, Id if name == self.feed.about else _python_type(kind), kind.optional))
        if self.feed.currency and "currency" not in self.types:
            fields.append(self._field("currency", Shorter, optional=True))
        fields.sort(key=lambda f: len(f) == 3)
        return msgspec.defstruct(f"{self.plan.name}_{self.feed.name}", fields)

    def _field(self, name: str, kind: Any, optional: bool) -> Any:
        return (name, kind | None, None) if optional else (name, kind)

    def _getter(self, name: str, kind: FieldType) -> Callable[[Any], Any]:
        codes = {v: i for i, v in enumerate(kind.values)}

        def get(message: Any) -> Any:
            value = getattr(message, name)
            if kind.kind == CATEGORY:
                return codes.get(value, -1)
            if kind.kind == TEXT:
                return None if value is None else str(value)
            if value is None:
                return math.nan
            if kind.kind != FLAG and not math.isfinite(value):
                raise EventRejected("not_finite", "the number is too large for a double", f"$.{name}")
            return float(value)

        return get

    def _entity(self, message: Any, entity: Entity) -> str | None:
        value = getattr(message, entity.field)
        if value is None:
            if not entity.optional:
                raise Parked(entity.field)
            return None
        text = str(value)
        if len(text) > MAX_ID_CHARS:
            raise EventRejected("id_too_long", f"an id of {len(text)} characters", f"$.{entity.field}")
        if entity.hashed:
            return hmac.new(self._hash_key, text.encode(), hashlib.sha256).hexdigest()[:32]
        return text

    def _convert(self, message: Any, fields: list[Any]) -> None:
        currency = message.currency
        if currency is None or currency == self.feed.currency:
            return
        if currency not in self.feed.rates:
            known = [self.feed.currency, *self.feed.rates]
            raise EventRejected("currency", f"{currency!r} has no declared rate; known are {known}", "$.currency")
        at = list(self.types).index(str(self.feed.money))
        fields[at] = round(fields[at] * self.feed.rates[currency], 2)
        if math.isinf(fields[at]):
            raise EventRejected("not_finite", "the converted amount is too large", f"$.{self.feed.money}")

    def _default_id(self, message: Any, at_ms: int) -> str:
        parts = [str(getattr(message, str(self.feed.about))), str(getattr(message, "source", None) or ""), str(at_ms)]
        return ":".join(parts)


def _python_type(kind: FieldType) -> Any:
    if kind.kind == FLAG:
        return bool
    return Shorter if kind.kind in (TEXT, CATEGORY) else float


def _column(kind: FieldType, values: Sequence[Any]) -> Any:
    if kind.kind == TEXT:
        return Text.of_strings(values)
    return np.array(values, np.int32 if kind.kind == CATEGORY else np.float64)


def _time(moment: datetime | int, name: str, broker_ms: int) -> int:
    at_ms = moment if isinstance(moment, int) else (moment - EPOCH) // MILLISECOND
    if at_ms < EARLIEST_MS:
        raise EventRejected("time_in_seconds", f"{at_ms} is before 1973: send milliseconds or RFC 3339", f"$.{name}")
    if at_ms > LATEST_MS:
        raise EventRejected("time_out_of_range", f"{at_ms} is after the year 9999: send milliseconds", f"$.{name}")
    if at_ms > broker_ms + AHEAD_MS:
        raise EventRejected(
            "future_time",
            f"{(at_ms - broker_ms) // 1000} s ahead of the broker, at most 300 are taken",
            f"$.{name}",
        )
    return at_ms


def _invalid(error: msgspec.ValidationError) -> EventRejected:
    detail, _, where = str(error).partition(" - at `")
    if "missing required field" in detail:
        return EventRejected("missing_field", detail, where.rstrip("`") or "$")
    if "out of range" in detail:
        return EventRejected("out_of_range", detail, where.rstrip("`") or "$")
    return EventRejected("wrong_type", detail, where.rstrip("`") or "$")


def _check_shape(value: bytes) -> None:
    """Counts exactly what a quick count of brackets and colons found suspicious."""
    depth = deepest = fields = 0
    text = in_escape = False
    for byte in value:
        if text:
            if in_escape:
                in_escape = False
            elif byte == 0x5C:
                in_escape = True
            elif byte == 0x22:
                text = False
        elif byte == 0x22:
            text = True
        elif byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
        elif byte == 0x3A:
            fields += 1
    if deepest > MAX_DEPTH:
        raise EventRejected("too_deep", f"{deepest} levels, at most {MAX_DEPTH} are taken")
    if fields > MAX_FIELDS:
        raise EventRejected("too_many_fields", f"{fields} fields, at most {MAX_FIELDS} are taken")
