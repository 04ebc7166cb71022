"""Opinions in the lake: of what was sent twice one, none of a decision that was made again, other systems beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batch.shadow_scores import COLUMNS, read_shadow_scores
from riskflow.names import Names
from riskflow.plan import Plan
from tests import support
from tests.unit.test_archive import DAY_MS, NOON_MS, Record, archived

NAMES = Names("card_fraud")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return support.plan_of()


def score(offset: int, name: str, epoch: int, value: float = 0.2, bundle: int = 1) -> Record:
    said = {"event_id": name, "score": value, "band": "low", "action": "approve", "reasons": [], "bundle": bundle,
            "degraded": [], "occurred_at": NOON_MS + offset, "positions": {}}  # fmt: skip
    return Record(0, offset, NOON_MS, json.dumps(said).encode(), headers=(("epoch", b"%d" % epoch),))


def opinion(offset: int, name: str, epoch: int, bundle: int = 1, **others: float | None) -> Record:
    said = {
        "event_id": name, "occurred_at": NOON_MS + offset,
        "decided": {"bundle": bundle, "score": 0.2, "action": "approve"},
        "others": [{"alias": alias, "bundle": 9, "score": value, "band": "high", "action": "review"}
                   for alias, value in others.items()],
    }  # fmt: skip
    return Record(0, offset, NOON_MS, json.dumps(said).encode(), headers=(("epoch", b"%d" % epoch),))


def external(offset: int, **said: Any) -> Record:
    return Record(0, offset, NOON_MS, json.dumps(said).encode())


def found(plan: Plan, folder: Path, **span: int) -> list[tuple[Any, ...]]:
    frame = read_shadow_scores(plan, NAMES, folder, **span)
    assert dict(frame.schema) == COLUMNS
    return [(r["event_id"], r["alias"], r["bundle"], r["score"]) for r in frame.iter_rows(named=True)]


def test_each_event_has_a_row_for_each_who_spoke(plan: Plan, tmp_path: Path) -> None:
    archived(plan, tmp_path, NAMES.scores, [score(0, "a", 5), score(1, "b", 5)])
    records = [opinion(0, "a", 5, shadow=0.7, champion=None), opinion(1, "b", 5, shadow=0.1)]
    assert len(archived(plan, tmp_path, NAMES.shadow, records)) == 3
    assert found(plan, tmp_path) == [("a", "champion", 9, None), ("a", "shadow", 9, 0.7), ("b", "shadow", 9, 0.1)]
    assert found(plan, tmp_path, from_ms=NOON_MS + 1) == [("b", "shadow", 9, 0.1)]
    assert found(plan, tmp_path, to_ms=NOON_MS + 1)[-1][:2] == ("a", "shadow")
    row = read_shadow_scores(plan, NAMES, tmp_path).row(1, named=True)
    assert (row["decided_bundle"], row["decided_score"], row["decided_action"]) == (1, 0.2, "approve")
    assert (row["band"], row["action"], row["occurred_at"]) == ("high", "review", NOON_MS)


def test_of_messages_sent_twice_that_of_the_highest_epoch_counts(plan: Plan, tmp_path: Path) -> None:
    archived(plan, tmp_path, NAMES.scores, [score(0, "a", 5), score(1, "a", 7)])
    again = [opinion(0, "a", 5, shadow=0.7, lost=0.3), opinion(1, "a", 7, shadow=0.8), opinion(2, "a", 7, shadow=0.8)]
    archived(plan, tmp_path, NAMES.shadow, again)
    assert found(plan, tmp_path) == [("a", "shadow", 9, 0.8)]


def test_nothing_stands_beside_a_decision_that_was_made_again_without_others(plan: Plan, tmp_path: Path) -> None:
    """Redis lost the move that put the shadow there; the event was decided again before it came."""
    archived(plan, tmp_path, NAMES.scores, [score(0, "a", 5), score(1, "a", 7, bundle=2)])
    archived(plan, tmp_path, NAMES.shadow, [opinion(0, "a", 5, shadow=0.7), opinion(1, "new", 7, shadow=0.4)])
    assert found(plan, tmp_path) == [("new", "shadow", 9, 0.4)]


def test_another_system_stands_beside_what_was_decided_here(plan: Plan, tmp_path: Path) -> None:
    archived(plan, tmp_path, NAMES.scores, [score(0, "a", 5), score(1, "b", 5)])
    records = [
        external(0, event_id="a", score=720, system="old", action="decline", at=NOON_MS + 5),
        external(1, event_id="a", score=700, system="old", at="2020-01-01T00:00:00Z"),  # came late
        external(2, event_id="a", score=0.5, system="vendor"),
        external(3, event_id="unknown", score=0.5, system="old"),
        external(4, event_id="b", score="high", system="old"),
        external(5, event_id="b", score=1, system="Old Engine"),
        Record(0, 6, NOON_MS + DAY_MS, b"garbage"),
    ]
    frame = archived(plan, tmp_path, NAMES.external, records)
    assert frame["_value"].is_null().to_list() == [True] * 4 + [False] * 3
    assert found(plan, tmp_path) == [("a", "external:old", None, 720.0), ("a", "external:vendor", None, 0.5)]
    row = read_shadow_scores(plan, NAMES, tmp_path).row(0, named=True)
    assert (row["action"], row["decided_bundle"], row["occurred_at"]) == ("decline", 1, NOON_MS)


def test_garbage_on_the_topic_is_counted_and_an_empty_lake_is_an_empty_table(plan: Plan, tmp_path: Path) -> None:
    assert found(plan, tmp_path) == []
    bad = [Record(0, 0, NOON_MS, value) for value in (b"", b"[1]", b"{}", b'{"others": [1], "decided": {}}')]
    assert len(archived(plan, tmp_path, NAMES.shadow, bad)) == 0
    assert found(plan, tmp_path) == []
