"""Which partitions may be given a head, without services."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest

from batch.topics import _make_heads, stages
from riskflow.errors import NotReady
from riskflow.names import Names
from riskflow.plan import Plan
from tests import support

NAMES = Names("card_fraud")
BY_CUSTOMER = NAMES.by("customer_id")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return support.plan_of()


class Made:
    """A use case of two partitions, and what has been written to its topics."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.store = plan, fakeredis.FakeRedis()
        self.partitions = {topic: 2 for _, topic, _ in stages(plan, NAMES)}
        self.written: dict[tuple[str, int], int] = {}

    def heads(self) -> tuple[int, int]:
        cluster: Any = SimpleNamespace(
            topics=lambda: {t: (f"id of {t}", n) for t, n in self.partitions.items()},
            log_ranges=lambda wanted: {
                (t, p): (0, self.written.get((t, p), 0)) for t, n in wanted.items() for p in range(n)
            },
        )
        return _make_heads(self.plan, NAMES, cluster, self.store)


@pytest.fixture
def made(plan: Plan) -> Made:
    out = Made(plan)
    assert out.heads() == (8, 0)
    assert out.heads() == (0, 8)
    return out


def test_partitions_added_to_a_feed_begin_at_its_start(made: Made) -> None:
    made.written = {(NAMES.feed("events"), 0): 9, (BY_CUSTOMER, 0): 5}
    made.partitions[NAMES.feed("events")] = 3
    made.written[NAMES.feed("events"), 2] = 4  # producers were quicker
    assert made.heads() == (1, 8)
    assert made.store.hget(NAMES.head("events", 2), "position") == b"0"


@pytest.mark.parametrize("used", ["log", "records"])
def test_partitions_added_to_an_internal_topic_are_refused(made: Made, used: str) -> None:
    if used == "log":
        made.written = {(BY_CUSTOMER, 0): 5}
    else:  # as a rebuild leaves them
        made.store.hset(NAMES.records("customer_id", 1), "e:c1", b"a record")
    made.partitions[BY_CUSTOMER] = 4
    with pytest.raises(NotReady, match="`riskflow rebuild card_fraud --partitions 4`") as refused:
        made.heads()
    assert "and 2, 3 came later" in str(refused.value)
    assert not made.store.exists(NAMES.head("customer_id", 2))


def test_a_run_that_was_ended_between_two_heads_is_completed(made: Made) -> None:
    made.store.delete(NAMES.head("customer_id", 1), NAMES.head("terminal_id", 0), NAMES.head("terminal_id", 1))
    assert made.heads() == (3, 5)


def test_a_written_log_without_a_head_is_refused(made: Made) -> None:
    made.written = {(BY_CUSTOMER, 0): 5}
    made.store.delete(NAMES.head("customer_id", 0))
    with pytest.raises(NotReady, match="has been written"):
        made.heads()
