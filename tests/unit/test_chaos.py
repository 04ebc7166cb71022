"""The chaos suite's own parts: what it sends is what it says, and its model of duplicates is right."""

from __future__ import annotations

import time
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chaos.control import count, payments
from chaos.copies import CONFLICT, DUPLICATE, NEW, RING, Days, Known, Repeated, _decide
from chaos.faults import FAULTS, NAMED, schedule
from chaos.fleet import RANDOM
from chaos.verdict import Judge, Verdict
from chaos.world import EVENT, FAR, INVALID, LATE_COPY, NEAR, OTHER, ROW, WAITS, Message, World
from riskflow.errors import EventRejected
from riskflow.events import Decoder, Parked
from riskflow.names import Names
from tests import support

PLAN = support.plan_of()


def world(n: int = 12_000, **changes: object) -> list[Message]:
    options = {"events": 10_000, "seed": 1, "entities": 500, "hot": False} | changes
    return list(islice(World.of(PLAN, **options).messages(), n))  # type: ignore[arg-type]


def test_a_world_is_the_same_again_and_another_one_with_another_seed() -> None:
    one = World(PLAN, 10_000, 1, start_ms=1_700_000_000_000)
    first, again = (list(islice(one.messages(), 3_000)) for _ in range(2))
    assert [m for m in first if m.fate != INVALID] == [m for m in again if m.fate != INVALID]
    assert first != list(islice(World(PLAN, 10_000, 2, start_ms=1_700_000_000_000).messages(), 3_000))


def test_every_fate_is_what_the_decoder_makes_of_the_message() -> None:
    decoders = {feed.name: Decoder(PLAN, feed) for feed in PLAN.usecase.feeds}
    now_ms = int(time.time() * 1000)
    seen = set()
    for message in world():
        seen.add(message.fate)
        try:
            decoders[message.feed].message(message.value, now_ms)
            fate = "taken"
        except EventRejected:
            fate = "rejected"
        except Parked:
            fate = "waits"
        assert fate == {INVALID: "rejected", WAITS: "waits"}.get(message.fate, "taken"), message
    assert seen == {EVENT, NEAR, LATE_COPY, OTHER, ROW, WAITS, INVALID}


def test_copies_are_equal_bytes_on_the_same_partition_at_once_or_long_after() -> None:
    events, by_value = 0, {}
    for message in world():
        events += message.fate == EVENT
        if message.fate == EVENT:
            by_value[message.value] = (events, message.spread)
        if message.fate in (NEAR, LATE_COPY):
            at, spread = by_value[message.value]
            assert spread == message.spread
            assert events - at == 0 if message.fate == NEAR else events - at >= FAR


def test_a_hot_entity_has_half_of_the_events() -> None:
    events = [m.value or b"" for m in world(hot=True) if m.fate == EVENT]
    assert 0.45 < sum(b'"c0"' in value for value in events) / len(events) < 0.6


def test_the_last_32_ids_of_an_entity_are_known_and_no_older_one() -> None:
    ring: list[tuple[tuple[bool, bytes], bool]] = []
    assert _decide(ring, (True, b"first"), False) == NEW
    assert _decide(ring, (True, b"first"), False) == DUPLICATE
    assert _decide(ring, (True, b"first"), True) == CONFLICT
    assert _decide(ring, (False, b"first"), False) == NEW, "a label may have an event's id"
    for i in range(RING - 2):
        _decide(ring, (True, str(i).encode()), False)
    assert _decide(ring, (True, b"first"), False) == DUPLICATE
    _decide(ring, (True, b"one more"), False)
    assert _decide(ring, (True, b"first"), False) == NEW


def test_who_is_dead_is_known_by_no_id_and_a_generation_begins_where_its_entities_were_seen() -> None:
    rings = {b"a": Known(seen=100), b"b": Known(seen=40)}
    days = Days(rings, live_days=60)
    assert days.of(0, b"b") is rings[b"b"]
    days.see(0, rings[b"b"], 90)
    assert (rings[b"b"].seen, rings[b"a"].seen) == (100, 100)
    days.see(0, rings[b"b"], 160)
    alive = rings[b"a"]
    assert days.of(0, b"a") is alive
    days.see(0, rings[b"b"], 161)
    assert days.of(1, b"a") is alive, "another partition is not so far"
    assert days.of(0, b"a") is not alive


@pytest.mark.parametrize("wanted", [6, 100])
def test_a_schedule_has_all_that_was_asked_for_and_each_named_point_as_often_as_the_others(wanted: int) -> None:
    actions = schedule(wanted, {"zombies": 2, "swaps": 20}, seed=3)
    points = [point for action in actions if isinstance(action, list) for point in action]
    assert len(points) == wanted
    times = [points.count(name) for name in NAMED]
    assert max(times) - min(times) <= 1
    assert all(action[0] == RANDOM for action in actions if isinstance(action, list))
    assert [actions.count(name) for name in ("zombies", "swaps")] == [2, 20]
    assert wanted < 100 or min(times) >= 10
    assert actions == schedule(wanted, {"zombies": 2, "swaps": 20}, seed=3)


def test_every_fault_has_an_option_on_the_command_line() -> None:
    from inspect import signature

    from cli.chaos import chaos

    assert set(FAULTS) <= set(signature(chaos).parameters)


def test_the_control_counts_losses_and_double_counts() -> None:
    sent = payments(3, 1)
    said = [
        {**e, "customer_count": 1 + [x["customer_id"] for x in sent[:i]].count(e["customer_id"]), "terminal_count": 9}
        for i, e in enumerate(sent)
    ]
    assert count(sent, said)["missing"] == 0
    assert count(sent, said)["terminals_counted_too_high"] > 0
    assert count(sent, said[:-1])["missing"] == 1
    assert count(sent, [*said, said[0] | {"terminal_count": 8}])["sent_with_other_counts"] == 1


def test_what_is_done_again_is_counted_by_runs() -> None:
    """A worker that goes back begins a run; one that goes on ends it; partitions and sources have their own."""
    places: Any = SimpleNamespace(sources=lambda: np.array([0] * 10 + [1] * 10))
    repeated = Repeated(places)
    for place in (0, 1, 2, 10):
        repeated.add(0, place, False)
    for place in (1, 2):
        repeated.add(0, place, True)
    repeated.add(0, 3, False)
    for place in (1, 2, 3):
        repeated.add(0, place, True)
    for place in (1, 2, 3):
        repeated.add(0, place, True)
    repeated.add(0, 10, True)
    assert (repeated.rows, repeated.longest) == (9, 3)
    for place in (5, 6):
        repeated.add(1, place, True)
    assert repeated.longest == 3


def test_what_shadows_say_of_an_event_is_one_thing_but_of_a_late_copy_it_may_be_another() -> None:
    """A late copy is scored as an event of its own under the same id, and opinions name nothing but the id."""

    def judged(*said: tuple[str, bytes]) -> Verdict:
        messages = [(0, SimpleNamespace(key=name.encode(), value=value)) for name, value in said]
        logs = SimpleNamespace(records=lambda topic: messages if topic == "card_fraud.shadow" else [])
        judge: Any = SimpleNamespace(names=Names("card_fraud"), logs=logs, out=Verdict())
        scores: Any = SimpleNamespace(
            id_hash=np.array([hash(name) for name in ("once", "copied", "copied", "not scored")]),
            count=np.array([2, 1, 1, 0]),
        )
        Judge._count_opinions(judge, scores, redis_lost=0)
        return judge.out  # type: ignore[no-any-return]

    sent_again = judged(("once", b"a"), ("once", b"a"), ("copied", b"a"), ("copied", b"b"))
    assert sent_again.clean
    assert sent_again.counts == {"events_with_opinions": 1, "opinions_sent_again": 1}
    assert judged(("once", b"a"), ("once", b"b"), ("once", b"b")).wrong == {"opinions_sent_differently": 1}
    assert judged(("not scored", b"a"), ("not scored", b"b")).wrong == {"opinions_sent_differently": 1}
