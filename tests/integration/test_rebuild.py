"""Rebuild: a first start on files, an emptied Redis, other partitions, a new window, a worker that ended mid-way."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import NewPartitions
from redis.asyncio import Redis

from batch import handover, lake, topics
from batch.archive import archive
from batch.generations import Generations
from batch.history import history_columns
from batch.parity import parity
from batch.rebuild import rebuild
from batch.replay import replay
from batch.simulate import simulate
from batch.simulate.files import write
from batch.unfinished import HalfSent
from ops.local import Services
from riskflow.errors import Leave, NotReady, RiskflowError
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import PROJECT, settings
from riskflow.windows import DAY
from stream import head as head_of
from stream.head import Head
from tests import support
from tests.chaos.world import World, make_world
from tests.integration import batch_cases as cases

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
NOT_READY, LEAVES = 3, 4  # a worker's exit codes; its supervisor starts it again after the second


@pytest.fixture(scope="module")
def lived(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plan, list[World], Path]]:
    """A world that was scored to its end; tests add to the list what they send."""
    with cases.prefixed("rebuild."):
        plan = cases.prepared(partitions=2)
        world = make_world(800, seed=5, customers=40, terminals=20)
        cases.produce(world.messages)
        log = tmp_path_factory.mktemp("worker") / "worker.log"
        cases.run_until_done(plan, log)
        yield plan, [world], log


def empty_redis(plan: Plan) -> None:
    """All state is gone; the registry stays, so that the test need not publish again."""
    store, prefix = support.store(), settings().topic_prefix
    for key in store.scan_iter(f"{{{prefix}{plan.name}:g*"):
        store.delete(key)
    store.delete(support.names_of(plan).current_generation)


def test_an_emptied_redis_gets_the_same_records(lived: tuple[Plan, list[World], Path]) -> None:
    plan, _, _ = lived
    before = cases.records(plan, cases.names_now(plan))
    empty_redis(plan)
    done = rebuild(plan, settings())
    assert done.generation == 2
    empty_redis(plan)
    with pytest.raises(NotReady, match="riskflow rebuild"):  # heads of the old number would begin from nothing
        topics.make(plan, settings())
    done = rebuild(plan, settings())
    assert done.generation == 3
    assert done.sent_on == 0
    assert cases.records(plan, cases.names_now(plan)) == before
    assert before["customer_id"]


def test_another_number_of_partitions(lived: tuple[Plan, list[World], Path]) -> None:
    plan, _, _ = lived
    before = cases.records(plan, cases.names_now(plan))
    old = cases.names_now(plan)
    done = rebuild(plan, settings(), partitions=3, drop_old=True)
    assert cases.records(plan, cases.names_now(plan)) == before
    assert support.store().exists(cases.names_now(plan).head("customer_id", 2))
    assert not support.store().exists(old.head("customer_id", 0))
    assert done.generation == 4


@pytest.mark.parametrize(
    ("point", "emptied"),
    [
        pytest.param("after_send:12", False, marks=pytest.mark.long),
        ("after_commit:15", True),
    ],
)
def test_what_was_on_its_way_is_neither_lost_nor_counted_twice(
    lived: tuple[Plan, list[World], Path], point: str, emptied: bool
) -> None:
    plan, worlds, log = lived
    world = cases.renamed(make_world(500, seed=6, customers=40, terminals=20), f"{len(worlds)}-")
    worlds.append(world)
    cases.killed_while_messages_come(plan, world, log, point)
    if emptied:
        empty_redis(plan)
    done = rebuild(plan, settings(), partitions=2 if emptied else 4)
    cases.run_until_done(plan, log)
    archive(plan, settings())
    print(done.summary())
    found = parity(plan, settings(), records=True)
    assert found.equal, (done.summary(), found.summary())
    assert cases.row_ids(plan) == cases.expected_ids(*worlds)
    scores = lake.read_scores(plan, support.names_of(plan), settings().lake_folder)
    assert set(scores["event_id"]) == {i for w in worlds for i in w.ids("score")}
    rejected = lake.read_topic(settings().lake_folder, support.names_of(plan).rejected)
    assert len(set(rejected["_key"])) == sum(len(w.ids("rejected")) for w in worlds)


def add_partitions(topic: str, partitions: int) -> None:
    with topics.Cluster(settings().kafka) as cluster:
        cluster.admin.create_partitions({topic: NewPartitions(partitions)})


@pytest.mark.long
def test_partitions_added_to_an_internal_topic_need_a_rebuild(
    lived: tuple[Plan, list[World], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, worlds, log = lived
    spread: list[int] = []

    def half_sent(plan: Plan, kafka: str, partitions: int, *rest: Any) -> HalfSent:
        spread.append(partitions)
        return HalfSent(plan, kafka, partitions, *rest)

    rebuild(plan, settings(), partitions=2)
    world = cases.renamed(make_world(500, seed=10, customers=40, terminals=20), f"{len(worlds)}-")
    worlds.append(world)
    cases.killed_while_messages_come(plan, world, log, "after_send:12")
    names = cases.names_now(plan)
    add_partitions(names.feed("events"), 3)
    assert topics.make(plan, settings()).heads == 1  # a feed may grow
    add_partitions(names.by("customer_id"), 5)
    wanted = "`riskflow rebuild card_fraud --partitions 5`"
    with pytest.raises(NotReady, match=wanted):
        topics.make(plan, settings())
    with cases.worker(log) as process:
        assert process.wait(60) == NOT_READY
    assert wanted in log.read_text()
    with monkeypatch.context() as patch:
        patch.setattr("batch.rebuild.HalfSent", half_sent)
        rebuild(plan, settings(), partitions=5)
    assert spread == [2], "intake had sent by the number that there was"
    cases.run_until_done(plan, log)
    archive(plan, settings())
    found = parity(plan, settings(), records=True)
    assert found.equal, found.summary()
    assert cases.row_ids(plan) == cases.expected_ids(*worlds)


def claimed(names: Names) -> Head:
    """A partition of the customers' stage, taken as a worker takes it."""
    topic_id = (support.store().hget(names.head("customer_id", 0), "topic_id") or b"").decode()

    async def claim() -> Head:
        async with Redis.from_url(settings().redis_url) as store:
            return await Head.claim(store, names, "customer_id", 0, topic_id)

    return asyncio.run(claim())


def load(head: Head) -> None:
    async def once() -> None:
        async with Redis.from_url(settings().redis_url) as store:
            await head_of.load([(dataclasses.replace(head, redis=store), [b"anybody"])])

    asyncio.run(once())


@pytest.mark.long
def test_a_worker_that_starts_at_the_last_moment_comes_back_with_the_new_number(
    lived: tuple[Plan, list[World], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, worlds, log = lived
    worlds.append(cases.renamed(make_world(100, seed=7, customers=40, terminals=20), f"{len(worlds)}-"))
    cases.produce(worlds[-1].messages)
    ended: list[int] = []
    write = Generations.write

    def while_the_old_number_stands(*arguments: Any) -> None:
        with cases.worker(log) as process:
            ended.append(process.wait(60))
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Generations, "write", while_the_old_number_stands)
        rebuild(plan, settings())
    assert ended == [LEAVES]
    assert "started again, a worker takes that one" in log.read_text()
    cases.run_until_done(plan, log)
    archive(plan, settings())
    found = parity(plan, settings(), records=True)
    assert found.equal, found.summary()
    assert cases.row_ids(plan) == cases.expected_ids(*worlds)


def test_a_worker_that_claims_before_the_heads_are_closed_is_noticed(
    lived: tuple[Plan, list[World], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _, _ = lived
    old = cases.names_now(plan)

    def late(*arguments: Any) -> bool:
        claimed(old)
        return handover.close(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("batch.rebuild.close", late)
        with pytest.raises(NotReady, match="moved on"):
            rebuild(plan, settings())
    assert cases.names_now(plan) == old
    paused = claimed(old)  # all heads are open again
    rebuild(plan, settings(), drop_old=True)
    with pytest.raises(Leave):
        load(paused)
    with pytest.raises(Leave, match="was left for"):
        claimed(old)


def test_a_rebuild_that_fails_at_its_last_step_leaves_the_old_generation_as_it_was(
    lived: tuple[Plan, list[World], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _, _ = lived
    old = cases.names_now(plan)

    def full_disk(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Generations, "write", full_disk)
        with pytest.raises(OSError, match="no space"):
            rebuild(plan, settings())
    load(claimed(old))


def test_a_rebuild_that_is_killed_at_its_last_step_is_run_again(
    lived: tuple[Plan, list[World], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, worlds, log = lived
    old, before = cases.names_now(plan), cases.records(plan, cases.names_now(plan))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("redis.Redis.set", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild(plan, settings())
    assert cases.names_now(plan) == old
    with pytest.raises(Leave, match="run `riskflow rebuild card_fraud` again"):
        claimed(old)
    done = rebuild(plan, settings())
    assert done.generation > old.generation
    assert cases.records(plan, cases.names_now(plan)) == before
    cases.run_until_done(plan, log)
    archive(plan, settings())
    assert parity(plan, settings(), records=True).equal
    assert cases.row_ids(plan) == cases.expected_ids(*worlds)


def test_the_old_champion_scores_on_after_a_window_was_added(
    lived: tuple[Plan, list[World], Path], tmp_path: Path
) -> None:
    plan, _, log = lived
    shutil.copytree(PROJECT / "usecases", tmp_path / "usecases")
    features = tmp_path / "usecases" / "card_fraud" / "features.py"
    more = 'customer_long = Windows(by=customer, over=["60d"], amount=[Sum()])'
    features.write_text(f"{features.read_text()}\nfrom riskflow.declare import Sum, Windows\n{more}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RISKFLOW_USECASES", str(tmp_path / "usecases"))
        settings.cache_clear()
        changed = support.plan_of()
        assert changed.layout_fingerprint != plan.layout_fingerprint
        rebuild(changed, settings())
        world = cases.renamed(make_world(200, seed=8, customers=40, terminals=20), "w-")
        cases.produce(world.messages)
        cases.run_until_done(changed, log)
        archive(changed, settings())
        found = parity(changed, settings(), records=True)
        assert found.equal, found.summary()
        names, folder = support.names_of(changed), settings().lake_folder
        mine = lake.read_scores(changed, names, folder).filter(lake.pl.col("event_id").str.starts_with("w-"))
        assert set(mine["event_id"]) == world.ids("score")
        assert mine["bundle"].unique().to_list() == [1]
        rows = lake.read_rows(changed, names, folder).filter(lake.pl.col("_id").str.starts_with("w-"))
        assert rows["customer_long_amount_sum_60d"].max() > 0
    _forget(tmp_path)
    settings.cache_clear()


def _forget(folder: Path) -> None:
    """Use cases are taken from the checkout again."""
    for name in [n for n in sys.modules if n == "usecases" or n.startswith("usecases.")]:
        del sys.modules[name]
    shutil.rmtree(folder)


def test_a_first_start_on_files(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cases.prefixed("files."):
        plan = support.plan_of()
        now_ms = int(time.time() * 1000)
        world = simulate(4, now_ms - 60 * DAY, days=8, customers=60, terminals=20)
        far = world.labels.with_columns(labelled_at_ms=world.labels["labelled_at_ms"] + 400 * DAY).head(3)
        labels = lake.pl.concat([world.labels, far]).drop("customer_id", "terminal_id")
        write(tmp_path, {}, events=world.events, labels=labels)
        of_files = {"events": tmp_path / "events.parquet", "labels": tmp_path / "labels.parquet"}
        done = rebuild(plan, settings(), **of_files, partitions=2)
        assert (done.generation, done.not_known_yet) == (1, 3)  # nothing was there before
        expected = replay(plan, history_columns(plan, {"events": world.events, "labels": world.labels})).records
        found = cases.records(plan, cases.names_now(plan))
        assert {s: {k[2:]: v for k, v in r.items()} for s, r in found.items()} == expected
        support.publish_small(plan)
        more = cases.renamed(make_world(200, seed=9, customers=40, terminals=20), "f-")
        cases.produce(more.messages)
        log = tmp_path / "worker.log"
        monkeypatch.setattr("batch.stopped.MEMBERS_LEAVE_S", 0.5)
        with cases.worker(log):
            cases.wait_until(lambda: cases.at_rest(plan))
            with pytest.raises(NotReady, match="are running"):
                rebuild(plan, settings())
        archive(plan, settings())
        assert parity(plan, settings(), records=True).equal
        with pytest.raises(RiskflowError, match="for a first start"):
            rebuild(plan, settings(), events=tmp_path / "events.parquet")
        before = cases.records(plan, cases.names_now(plan))
        rebuild(plan, settings())
        assert cases.records(plan, cases.names_now(plan)) == before
