"""Blocks between stages: repeated ones change nothing, missing ones are noticed, however they are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riskflow.columns import Columns, Text, concat, decode, n_rows, take
from riskflow.errors import Leave
from riskflow.state import BLOCK_ROWS
from stream.blocks import by_destination, cut, received, size_bytes

POSITIONS = "_log_intake"


def rows(positions: list[int]) -> Columns:
    return {"_id": Text.of_strings([f"e{p}" for p in positions]), POSITIONS: np.array(positions, np.int64)}


def sent(positions: list[int], after: int) -> list[bytes]:
    return list(cut(rows(positions), source="events:0", by=POSITIONS, after=after, epoch=1))


def test_a_block_is_applied_once() -> None:
    applied: dict[str, int] = {}
    [block] = sent([3, 5, 9], after=-1)
    first = received(block, 10, "customer_id", 2, applied)
    assert first is not None
    assert first["_id"].strings() == ["e3", "e5", "e9"]  # type: ignore[union-attr]
    assert applied == {"events:0": 9}
    assert received(block, 11, "customer_id", 2, applied) is None


def test_rows_know_where_they_stand() -> None:
    [block] = sent([3, 5], after=-1)
    first = received(block, 10, "customer_id", 2, {})
    assert first is not None
    assert list(first["_log_customer_id"]) == [10 << 12, 10 << 12 | 1]  # type: ignore[arg-type]
    assert list(first["_part_customer_id"]) == [2, 2]  # type: ignore[arg-type]


def test_a_gap_ends_the_worker() -> None:
    [block] = sent([7], after=5)
    with pytest.raises(Leave, match="rows are missing"):
        received(block, 1, "customer_id", 0, {"events:0": 3})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.lists(st.integers(0, 30), max_size=6))
def test_however_a_log_is_cut_and_repeated_each_row_counts_once(sizes: list[int], again_at: list[int]) -> None:
    """A sender crashes and cuts what follows its last commit in another way; the receiver sees both."""
    total = sum(sizes)
    log: list[bytes] = []
    at, after = 0, -1
    for i, size in enumerate(sizes):
        block = sent(list(range(at, at + size)), after)
        if i in again_at:  # crashed after a larger send of which nothing was committed
            log += sent(list(range(at, min(total, at + size + 2))), after)
        log += block
        at, after = at + size, at + size - 1
    applied: dict[str, int] = {}
    seen = [received(b, i, "s", 0, applied) for i, b in enumerate(log)]
    ids = concat([s for s in seen if s is not None])["_id"].strings()  # type: ignore[union-attr]
    assert ids == [f"e{i}" for i in range(total)]


def test_a_large_block_is_cut_and_follows_itself() -> None:
    blocks = sent(list(range(10_000)), after=-1)
    metas = [decode(b)[1] for b in blocks]
    assert [m["after"] for m in metas] == [-1, BLOCK_ROWS - 1, 2 * BLOCK_ROWS - 1]
    assert sum(n_rows(decode(b)[0]) for b in blocks) == 10_000


def test_a_wide_block_stays_below_its_size() -> None:
    wide = rows(list(range(4000))) | {f"f{i}": np.zeros(4000) for i in range(100)}
    blocks = list(cut(wide, source="s", by=POSITIONS, after=-1, epoch=1))
    assert size_bytes(wide) > 3_000_000
    assert max(len(b) for b in blocks) < 600_000


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_destinations_keep_the_order_of_rows(partitions: list[int]) -> None:
    found = dict(by_destination(np.array(partitions, np.int64)))
    assert {p: list(r) for p, r in found.items()} == {
        p: [i for i, q in enumerate(partitions) if q == p] for p in set(partitions)
    }


def test_take_keeps_text_and_numbers_together() -> None:
    part = take(rows([4, 5, 6]), np.array([2, 0]))
    assert part["_id"].strings() == ["e6", "e4"]  # type: ignore[union-attr]
