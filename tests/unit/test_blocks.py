"""Blocks between stages: repeated ones change nothing, missing ones are noticed, however they are cut and merged."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riskflow.columns import Columns, Text, concat, n_rows, take
from riskflow.errors import Leave
from riskflow.state import BLOCK_ROWS
from riskflow.wire import decode
from stream.batch import Sent
from stream.blocks import Found, Onward, Source, cut, received, size_bytes

LOG, PART = "_log_intake", "_part_intake"


def rows(positions: list[int], partition: int = 0) -> Columns:
    return {
        "_id": Text.of_strings([f"e{p}" for p in positions]),
        LOG: np.array(positions, np.int64),
        PART: np.full(len(positions), partition, np.int32),
    }


def sent(positions: list[int], after: int) -> list[bytes]:
    [blocks] = cut(rows(positions), [[Source("events", 0, after, 0, len(positions))]], by=LOG)
    return blocks


def one(value: bytes, offset: int, stage: str, partition: int, applied: dict[str, int]) -> Any:
    """The rows of one block."""
    found = received(stage, [Found(partition, offset, value, applied)])
    return found[0] if found else None


def ids_of(tables: list[Columns]) -> list[str]:
    return list(concat(tables)["_id"].strings()) if tables else []  # type: ignore[union-attr]


def test_a_block_is_applied_once() -> None:
    applied: dict[str, int] = {}
    [block] = sent([3, 5, 9], after=-1)
    first = one(block, 10, "customer_id", 2, applied)
    assert first["_id"].strings() == ["e3", "e5", "e9"]
    assert applied == {"events:0": 9}
    assert one(block, 11, "customer_id", 2, applied) is None


def test_rows_know_where_they_stand() -> None:
    [block] = sent([3, 5], after=-1)
    first = one(block, 10, "customer_id", 2, {})
    assert list(first["_log_customer_id"]) == [10 << 12, 10 << 12 | 1]
    assert list(first["_part_customer_id"]) == [2, 2]


def test_blocks_of_several_partitions_are_read_together() -> None:
    here: dict[str, int] = {}
    there: dict[str, int] = {}
    [a], [b], [c] = sent([1, 2], -1), sent([4], -1), sent([2, 3], 1)
    [found] = received("s", [Found(0, 7, a, here), Found(0, 8, c, here), Found(5, 3, b, there)])
    assert found["_id"].strings() == ["e1", "e2", "e3", "e4"]  # type: ignore[union-attr]
    assert list(found["_log_s"]) == [7 << 12, 7 << 12 | 1, 8 << 12 | 1, 3 << 12]  # type: ignore[arg-type]
    assert list(found["_part_s"]) == [0, 0, 0, 5]  # type: ignore[arg-type]
    assert (here, there) == ({"events:0": 3}, {"events:0": 4})


def test_a_gap_ends_the_worker() -> None:
    [block] = sent([7], after=5)
    with pytest.raises(Leave, match="rows are missing"):
        one(block, 1, "customer_id", 0, {"events:0": 3})


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=12), st.lists(st.integers(0, 30), max_size=6), st.integers(1, 9)
)
def test_however_a_log_is_cut_and_repeated_each_row_counts_once(
    sizes: list[int], again_at: list[int], at_once: int
) -> None:
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
    seen: list[Columns] = []
    for first in range(0, len(log), at_once):
        batch = log[first : first + at_once]
        seen += received("s", [Found(0, first + i, b, applied) for i, b in enumerate(batch)])
    assert ids_of(seen) == [f"e{i}" for i in range(total)]


def test_a_large_block_is_cut_and_follows_itself() -> None:
    blocks = sent(list(range(10_000)), after=-1)
    said = [decode(b)[1]["from"] for b in blocks]
    assert [after for [(_, after, _)] in said] == [-1, BLOCK_ROWS - 1, 2 * BLOCK_ROWS - 1]
    assert sum(n_rows(decode(b)[0]) for b in blocks) == 10_000


def test_a_wide_block_stays_below_its_size() -> None:
    wide = rows(list(range(4000))) | {f"f{i}": np.zeros(4000) for i in range(100)}
    [blocks] = cut(wide, [[Source("s", 0, -1, 0, 4000)]], by=LOG)
    assert size_bytes(wide) > 3_000_000
    assert max(len(b) for b in blocks) < 600_000


class Outbox:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.logs: dict[int, list[bytes]] = {}

    async def send(self, topic: str, partition: int, records: list[tuple[None, bytes]], headers: Any = None) -> None:
        self.logs.setdefault(partition, []).extend(block for _, block in records)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=60), st.integers(1, 20))
def test_rows_of_several_sources_arrive_once_and_in_the_order_of_their_log(
    destined: list[tuple[int, int]], at_once: int
) -> None:
    """Passes over any partitions together; the receivers see each source's rows in order, without a gap."""
    onward = Onward("events", PART, LOG, "customer_id", "t")
    outbox: Any = Outbox()
    sent_to: Sent = {p: {} for p in range(4)}
    logs: dict[int, list[int]] = {p: [] for p in range(4)}
    for i, (source, _) in enumerate(destined):
        logs[source].append(i)
    todo = {p: list(log) for p, log in logs.items()}
    while any(todo.values()):
        tables = []
        for p in todo:
            if taken := todo[p][:at_once]:
                tables.append(rows(taken, p))
                todo[p] = todo[p][at_once:]
        columns = concat(tables)
        positions: Any = columns[LOG]
        to = np.array([destined[i][1] for i in positions.tolist()], np.int64)
        asyncio.run(onward.send(columns, to, sent_to, outbox))
    for partition, blocks in outbox.logs.items():
        applied: dict[str, int] = {}
        found = concat(received("customer_id", [Found(partition, o, b, applied) for o, b in enumerate(blocks)]))
        for source, log in logs.items():
            mine = np.asarray(found[PART]) == source
            assert np.asarray(found[LOG])[mine].tolist() == [i for i in log if destined[i][1] == partition]


def test_take_keeps_text_and_numbers_together() -> None:
    part = take(rows([4, 5, 6]), np.array([2, 0]))
    assert part["_id"].strings() == ["e6", "e4"]  # type: ignore[union-attr]
