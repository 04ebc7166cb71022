"""Batch lets the same entities die as the stream: by recorded positions, over generations, with and without records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.dead import differing, first_watermark, without_dead
from batch.fold import fold, stage_orders
from batch.lake import NOWHERE
from batch.replay import recorded_orders, replay
from batch.unfinished import full
from riskflow.columns import Columns, n_rows, take
from riskflow.names import Names
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION
from tests.cluster.observer import differing_records
from tests.unit.kernel_cases import DAY
from tests.unit.test_dead_entities import FIRST, MARKED, folded, lives, paid, rows_of
from tests.unit.test_windows import columns_of, same_bits

modest = settings(max_examples=100, deadline=None)
Found = list[tuple[int, int, int, int]]


def recorded(found: Found) -> Columns:
    """Rows with positions in all logs, as if they had come one by one."""
    columns = rows_of(found)
    at = np.arange(len(found), dtype=np.int64)
    here = np.zeros(len(found), np.int32)
    logs = {"_log_card": at, "_log_shop": at, "_part_shop": here, INTAKE_LOG: at, INTAKE_PARTITION: here}
    return full(MARKED, {**columns, **logs})


def rows_alone(columns: Columns) -> Columns:
    return {name: column for name, column in columns.items() if name not in {*MARKED.features, "_degraded"}}


@modest
@given(lives)
def test_a_replay_of_recorded_positions_is_what_the_stream_did(found: Found) -> None:
    columns = recorded(found)
    live = folded(MARKED)
    out = live.blocks(rows_alone(columns), [3] * len(found))
    again = replay(MARKED, rows_alone(columns), recorded_orders(MARKED, columns))
    whole = fold(MARKED, columns, stage_orders(MARKED, columns, len(found)), {})
    for records, watermarks in ((again.records, again.watermarks), (whole.records, whole.watermarks)):
        assert list(records.values()) == live.records
        assert all(live.watermarks[k][p] == day for k, of in enumerate(watermarks.values()) for p, day in of.items())
    kept = np.sort(whole.passed[-1])
    for name in MARKED.features:
        streamed = np.concatenate([np.asarray(part[name]) for part in out])
        assert np.asarray(whole.columns[name])[kept].tobytes() == streamed.tobytes(), name


@modest
@given(before=lives, behind=lives)
def test_a_generation_without_the_dead_goes_on_with_the_same_bits(before: Found, behind: Found) -> None:
    first = recorded(before)
    begun = fold(MARKED, first, stage_orders(MARKED, first, len(before)), {}).records
    rows = recorded(behind)
    rows["at_ms"] = np.asarray(rows["at_ms"]) + int(np.asarray(first["at_ms"]).max()) - FIRST
    orders = stage_orders(MARKED, rows, len(behind))
    whole, swept = fold(MARKED, rows, orders, begun), fold(MARKED, rows, orders, without_dead(MARKED, begun))
    assert whole.watermarks == swept.watermarks
    same_bits([whole.columns], [swept.columns])
    assert without_dead(MARKED, whole.records) == without_dead(MARKED, swept.records)


@modest
@given(found=lives, at=st.integers(0, 40))
def test_history_without_positions_may_be_folded_in_two_parts(found: Found, at: int) -> None:
    columns = rows_of(found)
    del columns["_part_card"]
    n, at = n_rows(columns), min(at, n_rows(columns))
    whole = replay(MARKED, columns)
    first = replay(MARKED, take(columns, np.arange(at)))
    assert replay(MARKED, take(columns, np.arange(at, n)), records=first.records).records == whole.records


def records_of(*rows: dict[str, Any]) -> dict[bytes, bytes]:
    return replay(MARKED, columns_of(rows)).records["card"]


def test_records_begin_where_the_newest_of_them_was_touched() -> None:
    assert first_watermark({}) == 0
    assert first_watermark(records_of(paid(b"1", 3), paid(b"2", 0, b"late"))) == FIRST // DAY + 3


def test_a_dead_record_may_be_deleted_or_not_and_any_other_must_be_the_same() -> None:
    stage, today = MARKED.stages[0], FIRST // DAY + 500
    expected = records_of(paid(b"1", 0), paid(b"2", 500, b"here"))
    here = {b"here": expected[b"here"]}
    assert differing(stage, expected, expected, today) == 0
    assert differing(stage, expected, here, today) == 0
    assert differing(stage, expected, {b"c": expected[b"c"]}, today) == 1
    assert differing(stage, expected, here, FIRST // DAY) == 1
    assert differing(stage, expected, {**here, b"c": here[b"here"]}, today) == 1
    assert differing(stage, here, {**here, b"c": here[b"here"]}, today) == 1


def test_rows_on_no_log_of_a_stage_are_of_one_more_partition() -> None:
    """What was half sent when a generation was left is on none of its logs."""
    rows = columns_of([paid(b"1", 0), paid(b"2", 500, b"other"), paid(b"3", 1)])
    at, nowhere = np.arange(3), np.array([0, 0, NOWHERE], np.int32)
    logs = {"_log_card": at, "_part_card": nowhere, INTAKE_LOG: at, INTAKE_PARTITION: np.zeros(3, np.int32)}
    columns = full(MARKED, {**rows, **logs})
    found = fold(MARKED, columns, stage_orders(MARKED, columns, 2), {})
    assert found.watermarks["card"] == {0: FIRST // DAY + 500, NOWHERE: FIRST // DAY + 1}
    known: Any = found.columns["usual_amount_mean_30d"]
    assert known[2] == 5.0


def test_a_row_on_no_log_takes_nothing_of_its_entitys_life() -> None:
    rows = columns_of([paid(b"1", 0), paid(b"2", 500), paid(b"late", 1)])
    nowhere = np.array([0, 0, NOWHERE], np.int32)
    logs = {"_log_card": np.arange(3), "_part_card": nowhere, INTAKE_LOG: np.arange(3), INTAKE_PARTITION: nowhere * 0}
    columns = full(MARKED, {**rows, **logs})
    found = fold(MARKED, columns, stage_orders(MARKED, columns, 2), {})
    assert first_watermark(found.records["card"]) == FIRST // DAY + 500


def test_the_judge_of_the_cluster_suite_misses_nobody_who_is_dead() -> None:
    rows, names = recorded([(0, 0, 0, 0), (2, 200, 0, 0)]), Names("tried")
    whole = replay(MARKED, rows_alone(rows), recorded_orders(MARKED, rows)).records
    stored = {names.records(s, 0): {b"e:" + e: r for e, r in found.items()} for s, found in whole.items()}
    store: Any = SimpleNamespace(hgetall=lambda key: stored.get(key, {}))
    assert differing_records(MARKED, rows, names, store, 1) == 0
    del stored[names.records("card", 0)][b"e:c0"], stored[names.records("shop", 0)][b"e:s0"]
    assert differing_records(MARKED, rows, names, store, 1) == 0
    del stored[names.records("card", 0)][b"e:c2"]
    assert differing_records(MARKED, rows, names, store, 1) == 1
