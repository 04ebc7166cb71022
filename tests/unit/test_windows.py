"""The kernel against a brute force, and what must not change a bit: where the log is cut, and into what blocks."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riskflow.columns import Columns, Text, concat, take
from riskflow.declare import Std
from riskflow.plan import Plan
from riskflow.windows import DAY
from tests.unit.kernel_cases import (
    MISSING,
    START,
    Folded,
    all_windows,
    brute_force,
    columns_of,
    history,
    kept_rows,
    with_marks,
)

ALL, MARKED = all_windows(), with_marks()
ROUNDED = ("sum", "mean", "std")  # merged tile by tile: another order of the same additions
modest = settings(max_examples=15, deadline=None)


def assert_equals_brute_force(plan: Plan, columns: Columns) -> None:
    folded = Folded(plan)
    out = folded.block(columns)
    kept = take(columns, kept_rows(plan, columns))
    assert folded.conflicts == 0
    assert folded.duplicates == len(columns["at_ms"]) - len(kept["at_ms"])
    late = 0
    for stage in plan.stages:
        features, too_late = brute_force(plan, stage.index, kept)
        late += too_late
        for read in stage.reads:
            expected = np.array([f[read.name] for f in features])
            if read.aggregate.name in ROUNDED:
                scale = 1e9 if isinstance(read.aggregate, Std) else 1.0
                np.testing.assert_allclose(out[read.name], expected, rtol=1e-9, atol=1e-9 * scale, err_msg=read.name)
            else:
                np.testing.assert_array_equal(out[read.name], expected, err_msg=read.name)
    assert folded.late == late


@pytest.mark.parametrize("days", [0.02, 3.0, 40.0, 300.0])
def test_every_aggregate_and_window_equals_the_brute_force(days: float) -> None:
    assert_equals_brute_force(ALL, history(seed=int(days), n=400, days=days))


@modest
@given(seed=st.integers(0, 10**9), days=st.floats(0.01, 400.0), cards=st.integers(1, 5))
def test_generated_histories_equal_the_brute_force(seed: int, days: float, cards: int) -> None:
    assert_equals_brute_force(ALL, history(seed, n=80, days=days, cards=cards))


steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 9_999, 10_000, 95_000, 299_999, 3_600_000, DAY, 91 * DAY, -1, -9_999, -DAY, -92 * DAY]),
        st.sampled_from([math.nan, 0.0, -0.0, 0.01, 7.0, -3.5, 1e300, 12345.678]),
        st.sampled_from([b"", b"\0", b"x", MISSING]),
    ),
    min_size=1,
    max_size=25,
)  # fmt: skip


@modest
@given(steps)
def test_times_on_the_edges_of_tiles_equal_the_brute_force(found: list[tuple[int, float, bytes]]) -> None:
    at, rows = START - START % DAY, []
    for i, (step, amount, note) in enumerate(found):
        at += step
        amount = min(amount, 1e150)  # a square of more is infinite, for both
        rows.append({"_id": b"%d" % i, "at_ms": at, "card": b"c", "shop": b"s", "amount": amount, "note": note})
    assert_equals_brute_force(ALL, columns_of(rows))


def same_bits(one: list[Columns], other: list[Columns]) -> None:
    for name in one[0]:
        whole, parts = concat(one)[name], concat(other)[name]
        if isinstance(whole, Text):
            assert whole.values() == parts.values(), name
        else:
            assert whole.tobytes() == parts.tobytes(), name


@pytest.mark.parametrize("plan", [ALL, MARKED], ids=["all", "marks"])
@pytest.mark.parametrize("size", [1, 2, 7, 64, 512])
def test_blocks_of_any_size_give_the_same_bits(plan: Plan, size: int) -> None:
    columns = history(seed=5, n=500, days=60.0)
    n = len(columns["at_ms"])
    whole, cut = Folded(plan), Folded(plan)
    same_bits([whole.block(columns)], cut.blocks(columns, [size] * n))
    assert whole.records == cut.records
    assert (whole.late, whole.duplicates) == (cut.late, cut.duplicates)


@modest
@given(seed=st.integers(0, 10**9), sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_a_log_cut_anywhere_goes_on_with_the_same_bits(seed: int, sizes: list[int]) -> None:
    columns = history(seed, n=150, days=random.Random(seed).choice([0.1, 5.0, 100.0]), cards=3)
    whole, cut = Folded(MARKED), Folded(MARKED)
    same_bits([whole.block(columns)], cut.blocks(columns, [*sizes, 1000]))
    assert whole.records == cut.records


def test_marks_see_what_was_known_before_their_row() -> None:
    rows = [
        {"_id": b"%d" % i, "at_ms": START + i * 1000, "card": b"c", "amount": a} for i, a in enumerate([10, 30, 15, 90])
    ]
    out = Folded(MARKED).block(columns_of(rows))
    assert out["usual_amount_mean_30d"].tolist()[1:] == [10.0, 20.0, 55.0 / 3.0]
    assert out["high"].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert out["remembered_high_count_7d"].tolist() == [0.0, 0.0, 1.0, 1.0]
    np.testing.assert_array_equal(out["climb"], [math.nan, 30.0, math.nan, 180.0])


def test_an_old_record_reads_like_none() -> None:
    folded, later = (
        Folded(ALL),
        {"_id": b"new", "at_ms": START + 140 * DAY, "card": b"c0", "shop": b"s0", "amount": 3.0},
    )
    folded.block(history(seed=1, n=300))
    for row in (later, {**later, "_kind": 1, "is_fraud": 1.0}):
        fresh, out = Folded(ALL), Folded(ALL, [dict(r) for r in folded.records])
        same_bits([out.block(columns_of([row]))], [fresh.block(columns_of([row]))])


def test_a_duplicate_changes_nothing() -> None:
    folded = Folded(ALL)
    columns = history(seed=2, n=200)
    folded.block(columns)
    before = [dict(r) for r in folded.records]
    rows = np.arange(len(columns["at_ms"]))[-3:]
    out = folded.block(take(columns, rows))
    assert len(out["at_ms"]) == 0
    assert folded.records == before
    assert folded.duplicates >= 3


def test_the_same_id_with_other_content_is_a_conflict_and_changes_nothing() -> None:
    row = {"_id": b"1", "at_ms": START, "card": b"c", "amount": 5.0}
    for other in ({"amount": 6.0}, {"at_ms": START + 1}, {"shop": b"s"}, {"note": b""}, {"channel": 0}):
        folded = Folded(ALL)
        folded.block(columns_of([row]))
        before = [dict(r) for r in folded.records]
        assert len(folded.block(columns_of([{**row, **other}]))["at_ms"]) == 0
        assert (folded.conflicts, folded.duplicates, folded.records) == (1, 0, before)


def test_an_id_is_remembered_for_32_ids_of_its_kind_and_entity() -> None:
    rows = [{"_id": b"%d" % i, "at_ms": START, "card": b"c", "amount": 1.0} for i in range(100)]
    folded = Folded(ALL)
    folded.block(columns_of(rows))
    folded.block(columns_of(rows[68:]))
    assert folded.duplicates == 32
    folded.block(columns_of([rows[67], {**rows[99], "_kind": 1}, {**rows[99], "card": b"d"}]))
    assert (folded.duplicates, folded.conflicts) == (32, 0)


def test_a_long_life_does_not_grow_the_record() -> None:
    folded, sizes = Folded(ALL), []
    for block in range(40):
        rows = [{"_id": b"%d.%d" % (block, i), "at_ms": START, "card": b"c", "amount": 1.0} for i in range(64)]
        folded.block(columns_of(rows))
        sizes.append(len(folded.records[0][b"c"]))
    assert max(sizes) - min(sizes) <= 16


def test_one_entity_fills_a_whole_block() -> None:
    n = 100_000
    i = np.arange(n)
    columns = take(columns_of([{"card": b"c", "shop": b"s"}]), np.zeros(n, np.int64))
    columns["_id"] = Text.of(b"%d" % x for x in range(n))
    columns |= {"at_ms": START + i * 700 - (i % 50 == 0) * DAY, "amount": (i % 97).astype(float)}
    whole, cut = Folded(ALL), Folded(ALL)
    same_bits([whole.block(columns)], cut.blocks(columns, [33_333] * 4))
    assert whole.records == cut.records


def test_a_record_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="riskflow rebuild"):
        Folded(ALL, [{b"c": b"\x63"}, {}]).block(columns_of([{"_id": b"1", "card": b"c"}]))
