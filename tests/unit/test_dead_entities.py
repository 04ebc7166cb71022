"""Who does not come back is dead: by the log alone, so that no result depends on when a record is deleted."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riskflow.columns import Columns, n_rows, take
from riskflow.plan import Plan
from riskflow.windows import dead
from tests.unit.kernel_cases import DAY, MISSING, START, Folded, all_windows, columns_of, plan_of, with_marks
from tests.unit.test_windows import assert_equals_brute_force, same_bits

ALL, MARKED = all_windows(), with_marks()
CARD_DAYS = 91 + 30  # the longest ring, and the days of grace
FIRST = START - START % DAY
modest = settings(max_examples=100, deadline=None)

# Who, how many days after the one before, how late, and which of the ids that came before (0: a new one).
lives = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from([0, 0, 1, 29, 31, 60, 90, 91, 121, 122, 200]),
        st.sampled_from([0, 0, 0, 1, 31, 92, 130]),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=40,
)


def rows_of(found: list[tuple[int, int, int, int]]) -> Columns:
    """Cards in two partitions, shops in one; now and then a report, a payment without a shop, a copy."""
    rows: list[dict[str, Any]] = []
    at = FIRST
    for i, (card, days, late, copy) in enumerate(found):
        at += days * DAY
        before = [r for r in rows if r["card"] == b"c%d" % card]
        if copy == 1 and before:
            rows.append(dict(before[-1]))
            continue
        row = {"_id": b"%d" % i, "at_ms": at - late * DAY + i, "card": b"c%d" % card, "amount": float(i)}
        shop = MISSING if copy == 2 else b"s%d" % (card * days % 3)
        kind = {"_kind": 1, "is_fraud": 1.0} if copy == 3 else {"_kind": 0, "channel": i % 2, "note": b"n%d" % (i % 3)}
        rows.append({**row, "shop": shop, **kind})
    columns = columns_of(rows)
    return {**columns, "_part_card": np.array([r["card"][-1] % 2 for r in rows], np.int32)}


def folded(plan: Plan) -> Folded:
    return Folded(plan, watermarks=[{0: 0, 1: 0}, {0: 0}])


def paid(name: bytes, days: float, card: bytes = b"c", **more: Any) -> dict[str, Any]:
    return {"_id": name, "at_ms": FIRST + int(days * DAY), "card": card, "amount": 5.0, **more}


def count_of(out: Columns) -> list[float]:
    found: Any = out["paid_amount_count_90d"]
    return list(found)


@modest
@given(lives)
def test_generated_lives_equal_the_brute_force(found: list[tuple[int, int, int, int]]) -> None:
    columns = rows_of(found)
    del columns["_part_card"]
    assert_equals_brute_force(ALL, columns)


@pytest.mark.parametrize("plan", [ALL, MARKED], ids=["all", "marks"])
@modest
@given(found=lives, seed=st.integers(0, 10**6))
def test_deleting_dead_records_at_any_time_changes_no_bit(
    plan: Plan, found: list[tuple[int, int, int, int]], seed: int
) -> None:
    rng, columns = random.Random(seed), rows_of(found)
    kept, swept = folded(plan), folded(plan)
    first, outs = 0, []
    while first < n_rows(columns):
        rows = np.arange(first, min(n_rows(columns), first + rng.choice([1, 1, 3, 8])))
        outs.append((kept.block(take(columns, rows)), swept.block(take(columns, rows))))
        sweep(plan, swept, rng)
        first = int(rows[-1]) + 1
    same_bits([a for a, _ in outs], [b for _, b in outs])
    for k, (mine, other) in enumerate(zip(kept.records, swept.records, strict=True)):
        assert {e: mine[e] for e in other} == other
        gone = mine.keys() - other.keys()
        assert gone <= dead_of(plan, kept, k)
    assert (kept.duplicates, kept.late, kept.watermarks) == (swept.duplicates, swept.late, swept.watermarks)


def dead_of(plan: Plan, of: Folded, stage: int) -> set[bytes]:
    """Of stage 0 a card's partition is by the last digit of its name."""
    return {
        entity for entity, record in of.records[stage].items()
        if dead(plan.stages[stage].layout, [record], of.watermarks[stage][entity[-1] % 2 if stage == 0 else 0])[0]
    }  # fmt: skip


def sweep(plan: Plan, of: Folded, rng: random.Random) -> None:
    """Deletes some of the dead."""
    for stage in range(len(plan.stages)):
        for entity in sorted(dead_of(plan, of, stage)):
            if rng.random() < 0.7:
                del of.records[stage][entity]


@modest
@given(found=lives, size=st.integers(1, 9))
def test_a_log_cut_anywhere_lets_the_same_entities_die(found: list[tuple[int, int, int, int]], size: int) -> None:
    columns = rows_of(found)
    whole, cut = folded(MARKED), folded(MARKED)
    same_bits([whole.block(columns)], cut.blocks(columns, [size] * len(found)))
    assert (whole.records, whole.watermarks) == (cut.records, cut.watermarks)


@pytest.mark.parametrize(("days", "known"), [(CARD_DAYS, 1.0), (CARD_DAYS + 1, 0.0)])
def test_an_entity_lives_for_its_longest_ring_and_the_grace(days: int, known: float) -> None:
    """What tells is a row that comes late: it asks for days that are in the ring."""
    of = Folded(ALL)
    of.block(columns_of([paid(b"1", 0), paid(b"2", days, b"other")]))
    assert count_of(of.block(columns_of([paid(b"3", 1)]))) == [known]


def test_the_watermark_before_the_row_decides_and_not_the_row_itself() -> None:
    of = Folded(ALL)
    of.block(columns_of([paid(b"1", 0), paid(b"2", 500)]))
    assert len(of.block(columns_of([paid(b"1", 0)]))["at_ms"]) == 0
    assert of.duplicates == 1


def test_a_copy_of_what_a_dead_entity_did_counts_as_new() -> None:
    of = Folded(ALL)
    of.block(columns_of([paid(b"1", 0), paid(b"2", 500, b"other")]))
    assert len(of.block(columns_of([paid(b"1", 0)]))["at_ms"]) == 1
    assert of.duplicates == 0


def test_a_backlog_that_comes_customer_by_customer_kills_nobody() -> None:
    of = Folded(ALL)
    of.block(columns_of([paid(b"now", 0)]))
    backlog = [paid(b"%d.%d" % (c, d), -600 + d, b"c%d" % c) for c in range(3) for d in range(0, 600, 20)]
    of.block(columns_of(backlog))
    again = of.block(columns_of(backlog[-20:]))
    assert len(again["at_ms"]) == 0
    assert count_of(of.block(columns_of([paid(b"late", -1, b"c0")]))) == [4.0]


def test_a_late_row_takes_no_watermark_back() -> None:
    of = Folded(ALL)
    of.block(columns_of([paid(b"1", 0), paid(b"2", 500, b"other"), paid(b"late", 1, b"third")]))
    assert of.watermarks[0] == {0: FIRST // DAY + 500}
    assert len(of.block(columns_of([paid(b"1", 0)]))["at_ms"]) == 1, "he is as dead as before"


def test_copies_and_rows_without_the_entity_move_no_watermark() -> None:
    of = Folded(ALL)
    of.block(columns_of([paid(b"1", 0, shop=b"s"), paid(b"2", 9)]))
    before = [dict(w) for w in of.watermarks]
    assert [w[0] for w in before] == [FIRST // DAY + 9, FIRST // DAY]
    of.block(columns_of([paid(b"2", 9), paid(b"2", 400)]))  # a copy, and the same id with other content
    assert (of.duplicates, of.conflicts, of.watermarks) == (1, 1, before)


def test_records_of_another_grace_are_of_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or who is dead would depend on the code that was running then."""
    before = plan_of().layout_fingerprint
    monkeypatch.setattr("riskflow.windows.GRACE_DAYS", 31)
    assert plan_of().layout_fingerprint != before


def test_partitions_have_watermarks_of_their_own() -> None:
    of = Folded(ALL, watermarks=[{0: 0, 1: 0}, {0: 0}])
    rows = [paid(b"1", 0, b"a"), paid(b"2", 500, b"b"), paid(b"3", 1, b"a")]
    columns = {**columns_of(rows), "_part_card": np.array([0, 1, 0], np.int32)}
    assert count_of(of.block(columns)) == [0.0, 0.0, 1.0]
    assert of.watermarks[0] == {0: FIRST // DAY + 1, 1: FIRST // DAY + 500}


def test_a_dead_entity_leaves_the_bytes_of_one_that_was_never_seen() -> None:
    first = [paid(b"%d" % i, i, shop=b"s") for i in range(40)] + [paid(b"x", 500, b"other", shop=b"t")]
    back = [paid(b"1", 1, shop=b"s"), paid(b"back", 501, shop=b"s")]
    of = Folded(ALL)
    of.block(columns_of(first))
    never = Folded(ALL, watermarks=[dict(w) for w in of.watermarks])
    same_bits([of.block(columns_of(back))], [never.block(columns_of(back))])
    assert [of.records[0][b"c"], of.records[1][b"s"]] == [never.records[0][b"c"], never.records[1][b"s"]]


def test_a_stage_without_windows_forgets_ids_after_the_grace() -> None:
    of = Folded(plan_of())
    of.block(columns_of([paid(b"1", 0), paid(b"2", 30, b"other"), paid(b"1", 0)]))
    assert of.duplicates == 1
    of.block(columns_of([paid(b"3", 31, b"other"), paid(b"1", 0)]))
    assert of.duplicates == 1
