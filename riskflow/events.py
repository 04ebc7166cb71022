"""The contract of what producers send: typed decode, limits, and the columns that come out.

A message that cannot be taken raises EventRejected with a kind, a detail and the place; the caller sends it to
`rejected` and goes on. Fields that a feed does not declare are ignored.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
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
    """Decodes messages of one feed, and makes columns of them. `hash_key` is needed when an entity is hashed."""

    def __init__(self, plan: Plan, feed: Feed, hash_key: bytes = b"") -> None:
        self.plan, self.feed = plan, feed
        self.entities = plan.usecase.entities
        self.scored = feed is plan.scored
        self.types = feed.types
        self._hash_key = hash_key
        self._decode = msgspec.json.Decoder(self._struct()).decode

    def message(self, value: bytes | None, broker_ms: int) -> Any:
        """A message with its time in ms and its ids as text; raises EventRejected or Parked.

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
        self._complete(message, broker_ms)
        return message

    def columns(self, messages: Sequence[Any]) -> Columns:
        """The columns of messages, with empty columns for the fields of other feeds."""
        n = len(messages)

        def every(name: str) -> list[Any]:
            return list(map(attrgetter(name), messages))

        out: Columns = {
            KIND: np.full(n, self.plan.kind(self.feed.name), np.int8),
            ID: Text.of_strings(every(self.feed.id)),
            TIME: np.array(every(self.feed.at), np.int64),
        }
        for entity in self.entities:
            out[entity.field] = Text.of_strings(every(entity.field))
        for name, kind in self.plan.fields.items():
            out[name] = _column(kind, every(name)) if name in self.types else empty_field(kind.kind, n)
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

    def _complete(self, message: Any, broker_ms: int) -> None:
        """Checks what the decoder does not, and makes times milliseconds and ids texts."""
        at = getattr(message, self.feed.at)
        if type(at) is not int or not EARLIEST_MS <= at <= min(LATEST_MS, broker_ms + AHEAD_MS):
            setattr(message, self.feed.at, _time(at, self.feed.at, broker_ms))
        for entity in self.entities:
            value = getattr(message, entity.field)
            if type(value) is not str or entity.hashed:
                setattr(message, entity.field, self.entity(value, entity))
        if self.feed.currency:
            self._convert(message)
        row_id = getattr(message, self.feed.id)
        if type(row_id) is not str:
            known = row_id is not msgspec.UNSET and row_id is not None
            setattr(message, self.feed.id, str(row_id) if known else self._default_id(message))

    def entity(self, value: Any, entity: Entity) -> str | None:
        """An entity's id as text; raises EventRejected, or Parked where it is needed and missing."""
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

    def _convert(self, message: Any) -> None:
        currency, money = message.currency, str(self.feed.money)
        if currency is None or currency == self.feed.currency:
            return
        if currency not in self.feed.rates:
            known = [self.feed.currency, *self.feed.rates]
            raise EventRejected("currency", f"{currency!r} has no declared rate; known are {known}", "$.currency")
        amount = getattr(message, money)
        if amount is None:
            return
        converted = round(float(amount) * self.feed.rates[currency], 2)
        if math.isinf(converted):
            raise EventRejected("not_finite", "the converted amount is too large", f"$.{money}")
        setattr(message, money, converted)

    def _default_id(self, message: Any) -> str:
        source, at_ms = getattr(message, "source", None), getattr(message, self.feed.at)
        return f"{getattr(message, str(self.feed.about))}:{source or ''}:{at_ms}"


def _python_type(kind: FieldType) -> Any:
    if kind.kind == FLAG:
        return bool
    return Shorter if kind.kind in (TEXT, CATEGORY) else float


def _column(kind: FieldType, values: Sequence[Any]) -> Any:
    if kind.kind == TEXT:
        return Text.of_strings(None if v is None else str(v) for v in values)
    if kind.kind == CATEGORY:
        codes = {v: i for i, v in enumerate(kind.values)}
        return np.array([codes.get(v, -1) for v in values], np.int32)
    return np.array(values, np.float64)  # a missing one is NaN


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
