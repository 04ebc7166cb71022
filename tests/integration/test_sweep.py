"""A worker deletes the records of the dead, and whether they are deleted or not, scores and rows are the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from batch import lake
from batch.archive import archive
from batch.parity import parity
from batch.produce import Outgoing, send
from batch.rebuild import rebuild
from ops.local import Services
from riskflow.connect import connect_async
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import settings
from riskflow.state import WATERMARK, new_head
from riskflow.windows import DAY, dead
from stream.head import Head
from stream.sweep import RECORDS, Sweep
from tests import support
from tests.integration import batch_cases as cases
from tests.integration.worker import event

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
NOW_MS = int(time.time() * 1000)
OLD_MS = NOW_MS - 500 * DAY
PEOPLE = 12
# Whose records are deleted; whose come back, as from a Redis that lost its last second; who never comes back himself.
SWEPT, KEPT, GONE = "s", "k", "g"
TERMINALS = {SWEPT: 1000, KEPT: 2000, GONE: 4000, "t": 3000}


def paid(name: str, who: str, number: int, at_ms: int) -> tuple[bytes, bytes]:
    """Customer and payment; a customer's payments stay in their order, as they go to one partition."""
    terminal, customer = TERMINALS[who] + number, f"{who}{number}"
    value = event(name, occurred_at=at_ms, customer_id=customer, terminal_id=terminal, amount=5.0 + number)
    return customer.encode(), value


def produce(payments: list[tuple[bytes, bytes]]) -> None:
    topic = Names("card_fraud", prefix=settings().topic_prefix).feed("events")
    send((Outgoing(topic, customer, value, None) for customer, value in payments), settings().kafka)


def old(who: str) -> list[tuple[bytes, bytes]]:
    """Two payments of each, long ago."""
    return [paid(f"{who}{i}-{n}", who, i, OLD_MS + n * DAY) for i in range(PEOPLE) for n in range(2)]


def back(who: str) -> list[tuple[bytes, bytes]]:
    """What comes of them today: a late payment, a copy of the first one, and a new one."""
    late = [paid(f"{who}{i}-late", who, i, OLD_MS + 3 * DAY) for i in range(PEOPLE)]
    new = [paid(f"{who}{i}-new", who, i, NOW_MS - 1000) for i in range(PEOPLE)]
    return [*late, *old(who), *new]


def held(plan: Plan, who: str) -> dict[str, dict[bytes, bytes]]:
    """Redis key -> the records in it that are of these customers and of their terminals."""
    names, mine = cases.names_now(plan), {f"e:{who}{i}".encode() for i in range(PEOPLE)}
    mine |= {b"e:%d" % (TERMINALS[who] + i) for i in range(PEOPLE)}
    keys = [names.records(stage, p) for stage in plan.entities for p in range(2)]
    return {key: {e: r for e, r in support.store().hgetall(key).items() if e in mine} for key in keys}


def count(found: dict[str, dict[bytes, bytes]]) -> int:
    return sum(map(len, found.values()))


@pytest.fixture(scope="module")
def lived(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plan, Path]]:
    """Both have died, one group was swept, all are back, and their worker was stopped."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    with cases.prefixed("sweep."), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RISKFLOW_SWEEP_S", "0")
        plan = cases.prepared(partitions=2)
        produce([*old(SWEPT), *old(KEPT), *old(GONE)])
        cases.run_until_done(plan, log)
        produce([paid(f"t{i}", "t", i, NOW_MS - 2000) for i in range(PEOPLE)])
        cases.run_until_done(plan, log)
        before = held(plan, KEPT)
        assert count(before) == count(held(plan, SWEPT)) == 2 * PEOPLE
        with cases.worker(log, RISKFLOW_SWEEP_S="0.05"):
            cases.wait_until(lambda: not any(count(held(plan, who)) for who in (SWEPT, KEPT, GONE)), 60)
        assert count(held(plan, "t")) == 2 * PEOPLE
        for key, records in before.items():
            support.store().hset(key, mapping=records)  # type: ignore[arg-type]
        produce([*back(SWEPT), *back(KEPT)])
        cases.run_until_done(plan, log)
        archive(plan, settings())
        yield plan, log


def rows_of(plan: Plan, who: str) -> list[Any]:
    """Id without the group's letter, score and features of each row, in order."""
    rows = lake.read_rows(plan, support.names_of(plan), settings().lake_folder)
    rows = rows.with_columns(pl.col("_id").cast(pl.String)).filter(pl.col("_id").str.starts_with(who))
    rows = rows.with_columns(pl.col("_id").str.slice(1)).sort("_id", "_log_intake")
    return list(zip(*(rows[name].to_numpy().tolist() for name in ("_id", "_score")), features(plan, rows), strict=True))


def features(plan: Plan, rows: pl.DataFrame) -> list[bytes]:
    """The bits of each row's features."""
    matrix = np.column_stack([rows[name].to_numpy() for name in plan.features])
    return [row.tobytes() for row in matrix]


def test_who_was_swept_and_who_was_not_get_the_same_scores(lived: tuple[Plan, Path]) -> None:
    plan, _ = lived
    assert rows_of(plan, SWEPT) == rows_of(plan, KEPT)
    assert len(rows_of(plan, SWEPT)) == PEOPLE * (2 + 1 + 2 + 1)  # the copies are new to who knows nothing any more


def test_rows_and_records_of_both_equal_a_replay(lived: tuple[Plan, Path]) -> None:
    plan, _ = lived
    found = parity(plan, settings(), records=True)
    assert found.equal, found.summary()
    assert found.records == 6 * PEOPLE


def test_a_living_record_that_is_gone_and_another_watermark_are_told(lived: tuple[Plan, Path]) -> None:
    plan, _ = lived
    store, names = support.store(), cases.names_now(plan)
    key, head = names.records(plan.entities[0], 0), names.head(plan.entities[0], 0)
    name, record = next(iter(store.hgetall(key).items()))
    watermark = int(store.hget(head, WATERMARK))
    store.hdel(key, name)
    store.hset(head, WATERMARK, watermark - 1)
    try:
        assert parity(plan, settings(), records=True).records_differing == 2
    finally:
        store.hset(key, name, record)
        store.hset(head, WATERMARK, watermark)


def test_a_rebuild_leaves_the_dead_out_and_goes_on_from_the_watermark(lived: tuple[Plan, Path]) -> None:
    plan, log = lived
    living = {stage: len(found) for stage, found in cases.records(plan, cases.names_now(plan)).items()}
    made = rebuild(plan, settings(), partitions=3)
    names = cases.names_now(plan)
    assert names.generation == 2
    assert made.records == living == dict.fromkeys(plan.entities, 3 * PEOPLE)
    heads = [support.store().hget(names.head(stage, p), WATERMARK) for stage in plan.entities for p in range(3)]
    assert heads == [b"%d" % (NOW_MS // DAY)] * 6
    produce([*back(GONE), *(paid(f"after{i}", "t", i, NOW_MS - 1000) for i in range(PEOPLE))])
    cases.run_until_done(plan, log)
    archive(plan, settings())
    found = parity(plan, settings(), records=True)
    assert found.equal, found.summary()


async def test_a_sweep_goes_through_many_records_step_by_step(services: Services) -> None:
    plan = support.plan_of()
    stage, names = plan.stages[0], support.names_of(plan)
    store, redis = support.store(), connect_async(settings().redis_url)
    today = 20_000
    key, head_key = names.records(stage.entity.field, 7), names.head(stage.entity.field, 7)
    fields = {f"e:{i}": record_touched_at(today - i % 400) for i in range(6 * RECORDS)}
    store.delete(key, head_key)
    store.hset(head_key, mapping=new_head(0, "id", "layout", today))
    store.hset(key, mapping=fields)  # type: ignore[arg-type]
    living = {e for e, r in fields.items() if not dead(stage.layout, [r], today)[0]}
    head = await Head.claim(redis, names, stage.entity.field, 7, "id")
    sweep, sizes = Sweep(plan, Resting(head), 1.0), []
    while not sizes or sizes[-1] != len(living):
        await sweep.step()
        sizes.append(store.hlen(key))
        assert len(sizes) < 60
    assert sizes[0] > len(fields) - 3 * RECORDS  # no step looks at all of them
    assert {e.decode() for e in store.hkeys(key)} == living
    store.delete(key, head_key)
    await redis.aclose()


class Resting:
    """One partition with nothing to do."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def at_rest(self) -> list[Head]:
        return [self._head]


def record_touched_at(day: int) -> bytes:
    """Of the first entity, with nothing in it but a few bytes, as if they were tiles: a sweep does not read so far."""
    digits: list[Any] = [day & 127 | 128, day >> 7 & 127 | 128, day >> 14]
    return bytes([3, *digits, *range(90)])
