"""What makes two events with one id the same event: names and values of what they have, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from riskflow.columns import Columns
from riskflow.declare import Count, Entity, Feed, Windows
from riskflow.evaluate import content_hash
from riskflow.events import Decoder
from riskflow.plan import Plan
from tests.unit.kernel_cases import START, Folded, card, plan_of, shop

OPTIONAL: dict[str, Any] = {
    "amount": float | None, "fee": float | None, "note": str | None, "memo": str | None,
    "channel": Literal["chip", "online", "phone"] | None, "way": Literal["chip", "online", "phone"] | None,
    "checked": bool | None, "known": bool | None,
}  # fmt: skip
LATER = {"a_first": float | None, "between": str | None, "last": Literal["x", "y"] | None, "new_flag": bool | None}
ALIKE = [("amount", "fee"), ("note", "memo"), ("channel", "way"), ("checked", "known"), ("card", "shop")]
paid = Windows(by=card, over=["1d"], events=[Count()])


def plan_with(fields: dict[str, Any], **more: Any) -> Plan:
    return plan_of(payments=Feed("payments", id="payment_id", at="paid_at", fields=fields), paid=paid, **more)


def mixed_in(fields: dict[str, Any]) -> dict[str, Any]:
    """The later fields before, between and after those that were there."""
    names = [*LATER][:1] + [*fields][4:] + [*LATER][1:3] + [*fields][:4] + [*LATER][3:]
    return {n: {**fields, **LATER}[n] for n in names}


PLAN = plan_with(OPTIONAL)
GROWN = plan_with(mixed_in(OPTIONAL))
WITH_DEVICE = plan_with(OPTIONAL, device=Entity("device", optional=True))

numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(max_size=20)
categories = st.sampled_from([0, 1, 2])
flags = st.sampled_from([0.0, 1.0])
VALUES = {
    "amount": numbers, "fee": numbers, "note": words, "memo": words, "channel": categories, "way": categories,
    "checked": flags, "known": flags, "card": words, "shop": words, "at_ms": st.integers(START, START + 10**9),
}  # fmt: skip
EVENTS = st.fixed_dictionaries({n: v if n in ("card", "at_ms") else st.none() | v for n, v in VALUES.items()})


def columns_of(plan: Plan, *events: dict[str, Any]) -> Columns:
    """Events as intake hands them on."""
    decoder = Decoder(plan, plan.scored)

    def value(event: dict[str, Any], name: str) -> Any:
        found, kind = event.get(name), plan.fields.get(name)
        return kind.values[found] if kind is not None and kind.kind == "category" and found is not None else found

    def message(event: dict[str, Any]) -> Any:
        feed = plan.scored
        values = {name: value(event, name) for name in [*plan.entities, *decoder.types]}
        return SimpleNamespace(**values, **{feed.id: "id", feed.at: event["at_ms"]})

    return decoder.columns([message(e) for e in events])


def hash_of(plan: Plan, event: dict[str, Any]) -> int:
    return int(content_hash(plan, columns_of(plan, event))[0])


@settings(deadline=None)
@given(EVENTS)
def test_what_was_declared_later_changes_nothing_for_an_event_without_it(event: dict[str, Any]) -> None:
    assert hash_of(GROWN, event) == hash_of(WITH_DEVICE, event) == hash_of(PLAN, event)


@settings(deadline=None)
@given(EVENTS, st.data())
def test_any_changed_value_is_other_content(event: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*VALUES]))
    values = VALUES[name] if name in ("card", "at_ms") else st.none() | VALUES[name]
    other = data.draw(values.filter(lambda v: _bits(v) != _bits(event[name])))
    assert hash_of(PLAN, {**event, name: other}) != hash_of(PLAN, event)
    assert hash_of(GROWN, {**event, "between": "given"}) != hash_of(GROWN, event)


@settings(deadline=None)
@given(EVENTS, st.sampled_from(ALIKE))
def test_a_value_under_another_name_is_other_content(event: dict[str, Any], names: tuple[str, str]) -> None:
    one, other = names
    swapped = {**event, one: event[other], other: event[one]}
    if one != "card" and _bits(event[one]) != _bits(event[other]):
        assert hash_of(PLAN, swapped) != hash_of(PLAN, event)
    alone = {**event, one: "c" if one == "card" else event[one], other: None}
    if alone[one] is not None:
        assert hash_of(PLAN, {**alone, one: None, other: alone[one]}) != hash_of(PLAN, alone)


@settings(deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=20))
def test_a_row_does_not_see_its_neighbours(events: list[dict[str, Any]]) -> None:
    whole = content_hash(PLAN, columns_of(PLAN, *events)).tolist()
    assert whole == [hash_of(PLAN, e) for e in events]


def test_every_nan_is_missing() -> None:
    columns = columns_of(PLAN, {"card": "c", "at_ms": START})
    before = content_hash(PLAN, columns)[0]
    assert content_hash(PLAN, {**columns, "amount": -np.array(columns["amount"])})[0] == before


def test_an_event_sent_again_after_a_field_was_declared_is_a_duplicate() -> None:
    event = {"card": "c", "shop": "s", "at_ms": START, "amount": 3.5, "channel": 1}
    folded = Folded(PLAN)
    folded.block(columns_of(PLAN, event))
    again = Folded(GROWN, folded.records)
    again.block(columns_of(GROWN, event))
    assert (again.duplicates, again.conflicts) == (1, 0)
    again.block(columns_of(GROWN, {**event, "between": "now there"}))
    assert (again.duplicates, again.conflicts) == (1, 1)
    assert PLAN.layout_fingerprint == GROWN.layout_fingerprint
    assert PLAN.entities == (card.field, shop.field)


def _bits(value: Any) -> Any:
    return np.float64(value).tobytes() if isinstance(value, float) else value
