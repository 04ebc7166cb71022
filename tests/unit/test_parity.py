"""The staged fold and what parity counts, without services."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from batch.fold import fold, stage_orders
from batch.generations import FILES, Generations, Start
from batch.history import history_columns
from batch.lake import CARRIED, NOWHERE, frame_of
from batch.parity import _feature, order_errors
from batch.replay import replay
from batch.simulate import simulate
from batch.unfinished import full
from riskflow.columns import Columns, partition_of, take
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import PROJECT
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION
from riskflow.usecase import load_usecase

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(load_usecase("card_fraud", PROJECT / "usecases"))


@pytest.fixture(scope="module")
def lived(plan: Plan) -> Columns:
    """Rows with positions as if they had come one by one: customers in two partitions, terminals in one."""
    world = simulate(2, 1_790_000_000_000, days=4, customers=30, terminals=10)
    rows = history_columns(plan, {"events": world.events, "labels": world.labels})
    n = len(rows["_kind"])
    at = np.arange(n, dtype=np.int64) << 12
    rows = full(plan, {**rows, INTAKE_LOG: at, INTAKE_PARTITION: np.zeros(n, np.int32)})
    customers: Any = rows["customer_id"]
    rows |= {"_log_customer_id": at, "_part_customer_id": partition_of(customers, 2).astype(np.int32)}
    rows |= {"_log_terminal_id": at, "_part_terminal_id": np.zeros(n, np.int32)}
    return rows


def test_a_fold_of_all_rows_is_a_replay(plan: Plan, lived: Columns) -> None:
    n = len(lived["_kind"])
    expected = replay(plan, lived)
    orders = stage_orders(plan, lived, n)
    found = fold(plan, lived, orders, {})
    assert found.records == expected.records
    by_id: Any = expected.columns["_id"]
    ids: Any = lived["_id"]
    here = {name: i for i, name in enumerate(ids.values())}
    rows = np.array([here[name] for name in by_id.values()])
    for name in plan.features:
        assert np.asarray(found.columns[name])[rows].tobytes() == np.asarray(expected.columns[name]).tobytes(), name


def test_rows_on_their_way_and_carried_ones_end_as_if_nothing_had_happened(plan: Plan, lived: Columns) -> None:
    """A generation ends with 40 rows folded by customers only; the next one folds them at terminals only."""
    n = len(lived["_kind"])
    whole = fold(plan, lived, stage_orders(plan, lived, n), {})
    waiting = {**lived, "_part_terminal_id": np.where(np.arange(n) < n - 40, 0, NOWHERE).astype(np.int32)}
    first = fold(plan, waiting, stage_orders(plan, waiting, n - 40), {})
    assert first.records["customer_id"] == whole.records["customer_id"]
    assert first.records["terminal_id"] != whole.records["terminal_id"]
    rest = take(first.columns, np.arange(n - 40, n)) | take(
        {c: lived[c] for c in ("_log_customer_id", "_log_terminal_id", "_part_terminal_id")}, np.arange(n - 40, n)
    )
    rest["_part_customer_id"] = np.full(40, CARRIED, np.int32)
    second = fold(plan, rest, stage_orders(plan, rest, 40), first.records)
    assert second.records == whole.records
    for name in plan.features:
        assert np.asarray(second.columns[name]).tobytes() == np.asarray(whole.columns[name])[n - 40 :].tobytes(), name


def test_a_generation_remembers_how_it_began(plan: Plan, lived: Columns, tmp_path: Path) -> None:
    generations = Generations(plan, Names("card_fraud"), tmp_path)
    records = {"customer_id": {b"c\xc3\xa9": b"\0\1"}, "terminal_id": {b"": b"\2"}}
    start = Start(3, FILES, None, plan.layout_fingerprint, {"0": 4}, {"events": {"0": 9}})
    generations.write(start, records, None, lived)
    assert generations.known() == [3]
    assert generations.start(3) == start
    assert generations.records(3) == records
    assert generations.records(2) == {}
    history = generations.history(3)
    assert history is not None
    assert replay(plan, history).records == replay(plan, lived).records
    generations.write(Start(4, FILES, None, "of other windows"), {}, None, lived)
    assert generations.records(4) == replay(plan, lived).records  # its own cannot be read: worked out again


def test_positions_that_do_not_rise_are_counted(plan: Plan, lived: Columns) -> None:
    assert order_errors(plan, lived) == 0
    swapped = np.array(lived[INTAKE_LOG])
    swapped[[3, 400]] = swapped[[400, 3]]
    assert order_errors(plan, {**lived, INTAKE_LOG: swapped}) > 0
    twice = np.array(lived["_log_customer_id"])
    twice[10] = twice[9]
    assert order_errors(plan, {**lived, "_log_customer_id": twice}) > 0


def test_a_feature_is_compared_by_its_bits() -> None:
    frame = pl.DataFrame({"a": [1.0, None, float("nan"), 0.0]})
    archived = frame["a"].fill_null(float("nan")).to_numpy()
    came = np.array([True, True, True, True])
    found = _feature(frame, "a", archived, np.array([1.0, 2.0, np.nan, -0.0]), came)
    assert (found.mismatches, found.missing) == (1, 1)
    assert _feature(frame, "b", archived, archived, came).missing == 4


def test_history_survives_parquet(plan: Plan, lived: Columns, tmp_path: Path) -> None:
    frame_of(lived).write_parquet(tmp_path / "x.parquet")
    again = pl.read_parquet(tmp_path / "x.parquet")
    assert again["amount"].to_numpy().tobytes() == np.asarray(lived["amount"]).tobytes()


def test_with_one_entity_what_is_left_goes_on_as_intake_would_have_sent_it(plan: Plan, lived: Columns) -> None:
    from batch.carry import blocks, known_at_last, pending_rows
    from batch.parked import Parked
    from riskflow.columns import concat
    from riskflow.wire import decode

    alone = dataclasses.replace(plan, stages=plan.stages[:1], usecase=_first_entity_only(plan))
    n = len(lived["_kind"])
    one = take(lived, np.flatnonzero(np.asarray(lived["_part_customer_id"]) == 0))
    n = len(one["_kind"])
    copy = take(one, np.array([0]))  # a duplicate that stands in the log between finished rows, and one at its end
    early = copy | {"_log_customer_id": np.asarray(one["_log_customer_id"])[3:4] + 1, INTAKE_LOG: np.array([1])}
    rows = concat([take(one, np.arange(n - 30)), take(one, np.arange(n - 30, n)), early])
    folded = fold(alone, rows, stage_orders(alone, rows, n - 30), {})
    pending = pending_rows(alone, rows, folded, n - 30, Parked())
    assert pending.tolist() == list(range(n - 30, n))  # the early duplicate was decided, it does not come again
    sent = take(known_at_last(alone, rows, folded), pending)
    sent_on = [decode(b) for b in blocks(alone, sent, 0)]
    last: dict[str, int] = {}
    for columns, meta in sent_on:
        [(source, after, n)] = meta["from"]
        assert (after, n) == (last.get(source, -1), len(columns["_kind"]))
        last[source] = int(np.asarray(columns[INTAKE_LOG])[-1])
    ids: list[str | None] = []
    for columns, _ in sent_on:
        names: Any = columns["_id"]
        ids += names.strings()
    wanted: Any = rows["_id"]
    assert ids == wanted.take(pending).strings()


def _first_entity_only(plan: Plan) -> Any:
    return dataclasses.replace(plan.usecase, entities=plan.usecase.entities[:1])
