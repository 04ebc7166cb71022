"""What a message must be, and what becomes of one that is not."""

from __future__ import annotations

import json
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riskflow.columns import Text
from riskflow.errors import EventRejected
from riskflow.events import AHEAD_MS, Decoder, Parked
from tests import support

NOW_MS = 1_772_000_000_000
PLAN = support.plan_of()
EVENTS = Decoder(PLAN, PLAN.usecase.feeds[0])
LABELS = Decoder(PLAN, PLAN.usecase.feeds[1])


def event(**changes: object) -> bytes:
    values = {
        "event_id": "e1", "occurred_at": NOW_MS, "customer_id": "c1", "terminal_id": 7,
        "amount": 12.5, "channel": "chip",
    }  # fmt: skip
    return json.dumps({k: v for k, v in (values | changes).items() if v is not ...}).encode()


def label(**changes: object) -> bytes:
    values = {
        "event_id": "e1", "is_fraud": True, "labelled_at": NOW_MS, "source": "bank",
        "customer_id": "c1", "terminal_id": 7,
    }  # fmt: skip
    return json.dumps({k: v for k, v in (values | changes).items() if v is not ...}).encode()


def row(message: bytes, decoder: Decoder = EVENTS) -> dict[str, object]:
    columns = decoder.columns([decoder.message(message, NOW_MS)])
    values = {k: c.strings()[0] if isinstance(c, Text) else c[0] for k, c in columns.items()}
    return {k: None if v != v else v for k, v in values.items()}


def test_a_good_event_becomes_a_row() -> None:
    expected = {"amount": 12.5, "channel": 0, "terminal_id": "7", "customer_id": "c1", "at_ms": NOW_MS, "_id": "e1"}
    assert row(event()).items() >= expected.items()


@pytest.mark.parametrize(
    "text", ["2026-02-25T06:13:20Z", "2026-02-25T07:13:20+01:00", "2026-02-25T06:13:20.000000+00:00", NOW_MS]
)
def test_times_with_an_offset_and_epoch_milliseconds_are_one(text: object) -> None:
    assert row(event(occurred_at=text))["at_ms"] == NOW_MS


def test_seven_and_text_seven_are_one_entity() -> None:
    assert row(event(customer_id=7))["customer_id"] == row(event(customer_id="7"))["customer_id"]


def test_an_unknown_category_and_a_missing_one_are_unknown() -> None:
    assert row(event(channel="pigeon"))["channel"] == row(event(channel=...))["channel"] == -1


def test_other_fields_are_ignored() -> None:
    assert row(event(new_field={"deep": [1]})) == row(event())


def test_the_base_currency_may_be_said() -> None:
    assert row(event(currency="EUR"))["amount"] == 12.5


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (None, "null_value"),
        (b"", "broken_json"),
        (event(occurred_at=NOW_MS + AHEAD_MS + 1), "future_time"),
        (event(occurred_at=1_772_000_000), "time_in_seconds"),
        (event(occurred_at=10**18), "time_out_of_range"),
        (event(occurred_at=10**40), "time_out_of_range"),
        (event(occurred_at="yesterday"), "wrong_type"),
        (event(amount=True), "wrong_type"),
        (event(amount=...), "missing_field"),
        (event(customer_id=1.5), "wrong_type"),
        (event(currency="USD"), "currency"),
        (b'{"a":' * 9 + b"1" + b"}" * 9, "too_deep"),
        (json.dumps({f"f{i}": i for i in range(201)}).encode(), "too_many_fields"),
        (event(note="x" * 70_000), "too_large"),
    ],
)
def test_what_cannot_be_taken_says_why(message: bytes | None, kind: str) -> None:
    with pytest.raises(EventRejected) as error:
        EVENTS.message(message, NOW_MS)
    assert error.value.kind == kind
    assert error.value.detail
    assert error.value.where.startswith("$")


def test_five_minutes_ahead_is_still_taken() -> None:
    assert EVENTS.message(event(occurred_at=NOW_MS + AHEAD_MS), NOW_MS)


def test_braces_inside_text_are_no_depth() -> None:
    assert EVENTS.message(event(note="{[" * 40 + '\\"'), NOW_MS)


def test_a_label_without_an_id_gets_one_from_event_source_and_time() -> None:
    assert row(label(), LABELS)["_id"] == f"e1:bank:{NOW_MS}"
    assert row(label(label_id="mine"), LABELS)["_id"] == "mine"


def test_a_label_without_a_terminal_is_parked() -> None:
    with pytest.raises(Parked):
        LABELS.message(label(terminal_id=...), NOW_MS)


def test_a_label_has_no_value_in_fields_of_events() -> None:
    assert row(label(), LABELS)["channel"] == -1
    assert row(label(), LABELS)["amount"] is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(string.printable, max_size=200).map(str.encode))
def test_no_bytes_raise_anything_else(message: bytes) -> None:
    try:
        EVENTS.message(message, NOW_MS)
    except (EventRejected, Parked):
        return


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=128).filter(lambda t: t.isascii() or t.isprintable()))
def test_ids_are_data(name: str) -> None:
    assert row(event(customer_id=name))["customer_id"] == name


def test_columns_hold_every_declared_field_with_one_row_each() -> None:
    columns = EVENTS.columns([EVENTS.message(event(event_id=str(i)), NOW_MS) for i in range(5)])
    assert set(PLAN.fields) <= set(columns)
    assert {len(c) for c in columns.values()} == {5}
    assert columns["_kind"].dtype == np.int8  # type: ignore[union-attr]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400, "1.7976931348623159e308"])
def test_a_number_too_large_for_a_double_is_rejected(number: str) -> None:
    with pytest.raises(EventRejected) as rejected:
        EVENTS.message(event().replace(b"12.5", number.encode()), NOW_MS)
    assert rejected.value.kind == "out_of_range"
