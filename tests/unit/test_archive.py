"""The lake without services: file names, what overlaps, what is sent twice, and that bits and gaps survive."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from batch import lake
from batch.archive import _Topic
from batch.archive_records import framing
from batch.labels import completed
from riskflow.columns import Text, n_rows
from riskflow.declare import Entity
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import PROJECT
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION
from riskflow.usecase import load_usecase
from riskflow.wire import encode

DAY_MS = 86_400_000
NOON_MS = 1_790_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2


class Record(NamedTuple):
    """What a log is read into."""

    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(load_usecase("card_fraud", PROJECT / "usecases"))


def table(folder: Path, topic: str, partition: int, first: int, last: int, mark: int = 0) -> None:
    path = folder / topic / "date=2026-01-01" / lake.part_name(partition, first, last)
    path.parent.mkdir(parents=True, exist_ok=True)
    offsets = list(range(first, last + 1))
    pl.DataFrame({"_offset": offsets, "_partition": partition, "mark": mark}).write_parquet(path)


def test_overlapping_files_are_read_once_and_gaps_are_named(tmp_path: Path) -> None:
    table(tmp_path, "t", 0, 0, 9, 1)
    table(tmp_path, "t", 0, 0, 4, 2)  # within the first
    table(tmp_path, "t", 0, 8, 12, 3)  # begins in it
    table(tmp_path, "t", 0, 15, 16, 4)
    table(tmp_path, "t", 1, 3, 4, 5)
    found = lake.read_topic(tmp_path, "t")
    assert found.filter(pl.col("_partition") == 0)["_offset"].to_list() == [*range(13), 15, 16]
    assert found.filter(pl.col("_partition") == 0)["mark"].to_list() == [1] * 10 + [3] * 3 + [4] * 2
    assert lake.gaps(tmp_path, "t") == [(0, 13, 14)]
    assert lake.ends(tmp_path, "t") == {0: 17, 1: 5}
    assert [(p.start, p.last) for p in lake.parts(tmp_path, "t")] == [(0, 9), (10, 12), (15, 16), (3, 4)]
    before = lake.read_topic(tmp_path, "t", upto={0: 11})
    assert before["_offset"].to_list() == [*range(11)]
    assert before["mark"].to_list() == [1] * 10 + [3]


def block(epoch: int, positions: list[int], amounts: list[float], **more: Any) -> bytes:
    n = len(positions)
    columns = {
        "_kind": np.zeros(n, np.int8),
        "_id": Text.of_strings([f"e{p}" for p in positions]),
        "at_ms": np.arange(n, dtype=np.int64),
        "terminal_id": Text.of_strings([None, *["\0"] * (n - 1)]),
        "channel": np.array([-1] * n, np.int32),
        "amount": np.array(amounts),
        INTAKE_LOG: np.array(positions, np.int64),
        INTAKE_PARTITION: np.zeros(n, np.int32),
        **more,
    }
    return encode(columns, {"from": [("terminal_id:0", -1, n_rows(columns))], "by": INTAKE_LOG, "epoch": epoch})


def archived(plan: Plan, folder: Path, topic: str, records: list[Record]) -> pl.DataFrame:
    names = Names("card_fraud")
    frames = framing(plan, names, b"")[topic]
    made = _Topic(folder, topic, ("id", 1), frames, {(topic, 0): (0, 0)})
    made._clean()
    made._write(0, records, records[0].offset, records[-1].offset)
    return lake.read_topic(folder, topic)


def test_rows_keep_their_bits_and_of_two_the_higher_epoch_counts(plan: Plan, tmp_path: Path) -> None:
    odd = float(np.array([0x7FF8000000000123], np.uint64).view(np.float64)[0])  # a NaN with bits of its own
    topic = Names("card_fraud").rows
    records = [
        Record(0, 0, NOON_MS, block(5, [1, 2], [odd, -0.0])),
        Record(0, 1, NOON_MS, block(5, [1], [odd])),  # sent again
        Record(0, 2, NOON_MS + DAY_MS, block(7, [2, 3], [9.0, 4.0], later=np.array([1.5, 2.5]))),
        Record(0, 3, NOON_MS + DAY_MS, b"garbage"),
    ]
    frame = archived(plan, tmp_path, topic, records)
    assert len(list((tmp_path / topic).glob("date=*"))) == 2
    kept = lake.effective(frame)
    assert kept["_id"].to_list() == ["e1", "e2", "e3"]
    assert kept["_epoch"].to_list() == [5, 7, 7]
    assert kept["amount"].to_numpy().view(np.int64)[0] == 0x7FF8000000000123
    columns = lake.as_columns(plan, lake.read_rows(plan, Names("card_fraud"), tmp_path))
    terminals: Any = columns["terminal_id"]
    assert terminals.values() == [Text.MISSING, Text.MISSING, b"\0"]
    assert np.isnan(np.asarray(columns["later"])[0])  # a column that older rows do not have
    assert np.asarray(columns["channel"]).dtype == np.int32
    assert np.asarray(columns["_part_customer_id"]).tolist() == [lake.NOWHERE] * 3


def test_a_block_that_ends_too_early_costs_no_other_its_rows(plan: Plan, tmp_path: Path) -> None:
    topic = Names("card_fraud").rows
    whole = [block(1, [i, i + 1], [float(i), 0.5]) for i in range(0, 8, 2)]
    silent = encode({"amount": np.array([1.0])}, {"by": INTAKE_LOG})  # of no epoch
    records = [Record(0, 10 + i, NOON_MS + i, value) for i, value in enumerate([*whole, whole[1][:-3], silent])]
    frame = archived(plan, tmp_path, topic, records)
    assert frame["_id"].to_list() == [f"e{i}" for i in (0, 1, 2, 3, 4, 5, 6, 7)]
    assert frame["_row"].to_list() == [0, 1] * 4
    assert frame["_offset"].to_list() == [10, 10, 11, 11, 12, 12, 13, 13]
    assert frame["_broker_ms"].to_list() == [NOON_MS + i for i in (0, 0, 1, 1, 2, 2, 3, 3)]


def test_what_is_no_score_is_kept_as_its_bytes(plan: Plan, tmp_path: Path) -> None:
    said = {"event_id": "e1", "score": 0.25, "band": "low", "action": "approve", "bundle": 3, "occurred_at": NOON_MS}
    more = {"reasons": ["caf\u00e9"], "degraded": [], "positions": {"events": "0/1/0"}}
    headers = (("epoch", b"7"), ("decided-at", b"12"), ("worker", b"w"))
    others: list[dict[str, Any]] = [{"score": "high"}, {"bundle": 2**63}, {"occurred_at": -(2**63) - 1}]
    garbage = [json.dumps({**said, **other}).encode() for other in others]
    garbage += [b"{", b"[1]", b"\xff", json.dumps({**said, "reasons": ["?"]}).encode().replace(b"?", b"\xff")]
    too_long = (("epoch", b"9" * 19), ("decided-at", b"9" * 19), ("worker", b"\xff"))
    records = [
        Record(0, 0, NOON_MS, json.dumps({**said, **more}).encode(), b"e1", headers),
        *[Record(0, 1 + i, NOON_MS, value, None, too_long) for i, value in enumerate(garbage)],
        Record(0, 9, NOON_MS, None),
    ]
    frame = archived(plan, tmp_path, Names("card_fraud").scores, records)
    assert frame["_value"].to_list() == [None, *garbage, None]
    assert {n: frame[n][0] for n in said} == said
    assert {n: json.loads(frame[n][0]) for n in more} == more
    assert (frame["_epoch"][0], frame["decided_at"][0], frame["worker"][0]) == (7, 12, "w")
    assert frame["event_id"].to_list() == ["e1", *[None] * 8]
    assert (frame["_epoch"].to_list(), frame["decided_at"].to_list()) == ([7, *[0] * 8], [12, *[None] * 8])


def test_what_is_no_opinion_is_left_out(plan: Plan, tmp_path: Path) -> None:
    other = {"alias": "shadow", "bundle": 2, "score": None, "band": "low", "action": "approve"}
    said = {"event_id": "e1", "occurred_at": NOON_MS, "decided": {"bundle": 1, "score": 0.5, "action": "review"}}
    records = [
        Record(0, 0, NOON_MS, json.dumps({**said, "others": [other, {**other, "alias": "challenger"}]}).encode()),
        Record(0, 1, NOON_MS, json.dumps({**said, "others": "none"}).encode()),
        Record(0, 2, NOON_MS, b"\xff"),
        Record(0, 3, NOON_MS, json.dumps({**said, "others": [{**other, "bundle": 2**63}]}).encode()),
    ]
    frame = archived(plan, tmp_path, Names("card_fraud").shadow, records)
    assert frame.select("_offset", "_row", "alias", "bundle", "score", "decided_score").rows() == [
        (0, 0, "shadow", 2, None, 0.5), (0, 1, "challenger", 2, None, 0.5),
    ]  # fmt: skip


def test_what_another_system_says_in_no_way_that_can_be_read_is_kept_as_its_bytes(plan: Plan, tmp_path: Path) -> None:
    said = {"event_id": "caf?", "score": 0.5, "system": "old", "at": NOON_MS}
    garbage = [json.dumps(said).encode().replace(b"?", b"\xe9"), json.dumps({**said, "at": 2**63}).encode()]
    records = [Record(0, i, NOON_MS, value) for i, value in enumerate([json.dumps(said).encode(), *garbage])]
    frame = archived(plan, tmp_path, Names("card_fraud").external, records)
    assert frame["_value"].to_list() == [None, *garbage]
    assert frame["at_ms"].to_list() == [NOON_MS, None, None]
    assert [status[:30] for status in frame["_status"]] == [
        "ok", "'utf-8' codec can't decode byt", "Expected `int` <= 922337203685",
    ]  # fmt: skip


def test_files_follow_each_other_without_a_hole(plan: Plan, tmp_path: Path) -> None:
    topic = Names("card_fraud").rows
    records = [
        Record(0, offset, NOON_MS + day * DAY_MS, block(1, [offset], [1.0]))
        for offset, day in ((3, 0), (7, 0), (9, 1), (12, 2))
    ]  # the offsets between are markers of transactions
    archived(plan, tmp_path, topic, records)
    ranges = [(p.first, p.last) for p in lake.parts(tmp_path, topic)]
    assert ranges == [(3, 8), (9, 11), (12, 12)]


def feed_record(offset: int, **fields: Any) -> Record:
    return Record(0, offset, NOON_MS, json.dumps(fields).encode(), b"key")


def test_a_time_that_no_calendar_has_stops_nothing(plan: Plan, tmp_path: Path) -> None:
    """Where a topic bears its producers' time, in whatever unit they took it for."""
    topic = Names("card_fraud").rejected
    times = [-1, NOON_MS, NOON_MS * 1000]
    archived(plan, tmp_path, topic, [Record(0, i, at, b"what it was") for i, at in enumerate(times)])
    days = sorted(path.name for path in (tmp_path / topic).glob("date=*"))
    assert days == ["date=1970-01-01", "date=2026-09-21", "date=9999-12-31"]
    assert lake.read_topic(tmp_path, topic)["_broker_ms"].to_list() == times


def test_labels_without_ids_are_parked_and_completed_from_the_event(plan: Plan, tmp_path: Path) -> None:
    names = Names("card_fraud")
    label = {"event_id": "e1", "is_fraud": True, "labelled_at": NOON_MS, "source": "call"}
    records = [
        feed_record(0, **label),
        feed_record(1, **label, customer_id="c", terminal_id=7, label_id="whole"),
        Record(0, 2, NOON_MS, b"{"),
    ]
    frame = archived(plan, tmp_path, names.feed("labels"), records)
    assert frame["_status"].to_list() == ["parked", "ok", "broken_json"]
    assert frame["_id"].to_list() == [f"e1:call:{NOON_MS}", "whole", None]
    labels = lake.read_labels(plan, names, tmp_path)
    assert sorted(labels["event_id"].to_list()) == ["e1", "e1"]
    event = {"_id": "e1", "customer_id": "c1", "terminal_id": "t1", "amount": 3.5}
    row = frame.row(0, named=True)
    feed = next(f for f in plan.usecase.feeds if f.about)
    again = completed(plan, feed, row, event)
    assert again is not None
    assert again["customer_id"] == "c1"
    assert again["label_id"] == f"e1:call:{NOON_MS}"
    assert again["is_fraud"] is True
    assert completed(plan, feed, row, {**event, "customer_id": None}) is None
    latin = {**row, "_value": row["_value"].replace(b"}", b', "said": "\xe9"}')}
    assert completed(plan, feed, latin, event) == {**again, "said": "\ufffd"}


def test_raw_ids_of_hashed_entities_do_not_get_in(plan: Plan, tmp_path: Path) -> None:
    hashed = Entity("customer_id", hashed=True)
    usecase = dataclasses.replace(plan.usecase, entities=(hashed, *plan.usecase.entities[1:]))
    secret = dataclasses.replace(plan, usecase=usecase)
    topic = Names("card_fraud").feed("events")
    made = _Topic(tmp_path, topic, ("id", 1), framing(secret, Names("card_fraud"), b"key")[topic], {(topic, 0): (0, 0)})
    made._clean()
    event = feed_record(0, event_id="e", occurred_at=NOON_MS, customer_id="Ada", terminal_id="t", amount=1)
    latin = event.value.replace(b"}", b', "said": "\xe9"}')
    made._write(0, [event, Record(0, 1, NOON_MS, b'{"customer_id": "Ada"', b"Ada"), Record(0, 2, NOON_MS, latin)], 0, 2)
    frame = lake.read_topic(tmp_path, topic)
    assert "Ada" not in str(frame.rows())
    assert json.loads(frame["_value"][0])["customer_id"] == frame["customer_id"][0]
    assert frame["_value"][1] is None
    assert json.loads(frame["_value"][2]) == {**json.loads(frame["_value"][0]), "said": "\ufffd"}
