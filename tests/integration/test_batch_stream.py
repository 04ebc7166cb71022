"""What the stream wrote, as batch sees it: archived once, labels completed, and equal to a replay bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batch import lake
from batch.archive import archive
from batch.labels import complete_labels
from batch.parity import parity
from batch.topics import Cluster
from ops.local import Services
from riskflow.errors import RiskflowError
from riskflow.plan import Plan
from riskflow.settings import settings
from tests import support
from tests.chaos.world import World, make_world
from tests.integration import batch_cases as cases

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
LABEL_AT_MS = 1_790_000_000_000


@pytest.fixture(scope="module")
def lived(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plan, World, Path]]:
    """A small world, scored by a real worker that has been stopped."""
    with cases.prefixed("batch."):
        plan = cases.prepared(partitions=2)
        world = make_world(1500, seed=3, customers=60, terminals=20)
        lacking = [
            cases.label_without_ids("bare-1", "e3", LABEL_AT_MS),
            cases.label_without_ids("bare-2", "no", LABEL_AT_MS),
        ]
        cases.produce([*world.messages, *lacking])
        log = tmp_path_factory.mktemp("worker") / "worker.log"
        cases.run_until_done(plan, log)
        yield plan, world, log


def test_archiving_twice_adds_nothing(lived: tuple[Plan, World, Path]) -> None:
    plan, world, _ = lived
    first = archive(plan, settings())
    again = archive(plan, settings())
    assert first.added > len(world.messages)
    assert again.added == 0
    assert not again.gaps
    assert cases.row_ids(plan) == cases.expected_ids(world)
    names, folder = support.names_of(plan), settings().lake_folder
    assert set(lake.read_scores(plan, names, folder)["event_id"]) == world.ids("score")
    assert len(lake.read_topic(folder, names.rejected)) == len(world.ids("rejected"))


def test_a_killed_archive_is_continued(lived: tuple[Plan, World, Path]) -> None:
    plan, world, _ = lived
    archive(plan, settings())
    names, folder = support.names_of(plan), settings().lake_folder
    last = lake.parts(folder, names.rows)[-1].path
    last.rename(last.with_name(f".{last.name}.tmp"))  # as if it ended before the rename
    assert cases.row_ids(plan) != cases.expected_ids(world)
    archive(plan, settings())
    assert cases.row_ids(plan) == cases.expected_ids(world)
    assert not list(last.parent.glob(".*.tmp"))


def test_archived_rows_equal_a_replay_and_so_do_the_records(lived: tuple[Plan, World, Path]) -> None:
    plan, world, _ = lived
    archive(plan, settings())
    found = parity(plan, settings(), records=True)
    assert found.equal, found.summary()
    assert found.rows == len(cases.expected_ids(world))
    assert found.records > 0
    assert found.unfinished == 0


def test_a_tampered_row_and_a_tampered_record_are_found(lived: tuple[Plan, World, Path]) -> None:
    plan, _, _ = lived
    archive(plan, settings())
    names, folder = support.names_of(plan), settings().lake_folder
    path = lake.parts(folder, names.rows)[0].path
    honest = path.read_bytes()
    table = pl.read_parquet(path)
    name = plan.stages[0].reads[0].name
    one_bit = pl.Series(name, [table[name][0] + 1e-9, *table[name][1:].to_list()])
    table.with_columns(one_bit).write_parquet(path)
    store, key = support.store(), names.records(plan.entities[0], 0)
    customer, record = next(iter(store.hgetall(key).items()))
    store.hset(key, customer, record + b"\0")
    try:
        found = parity(plan, settings(), records=True)
        assert found.features[name].mismatches == 1
        assert found.records_differing == 1
        assert not found.equal
    finally:
        path.write_bytes(honest)
        store.hset(key, customer, record)


def test_a_label_without_ids_is_completed_once(lived: tuple[Plan, World, Path]) -> None:
    plan, _, log = lived
    first = complete_labels(plan, settings())
    again = complete_labels(plan, settings())
    assert (first.sent, first.pending) == (1, ["bare-2"])
    assert (again.sent, again.pending) == (0, ["bare-2"])
    cases.run_until_done(plan, log)
    archive(plan, settings())
    names, folder = support.names_of(plan), settings().lake_folder
    row = lake.read_rows(plan, names, folder).filter(pl.col("_id") == "bare-1")
    event = lake.read_rows(plan, names, folder).filter(pl.col("_id") == "e3")
    assert row["customer_id"].to_list() == event["customer_id"].to_list()
    assert row["amount"].to_list() == event["amount"].to_list()
    labels = lake.read_labels(plan, names, folder)
    assert {"bare-1", "bare-2"} <= set(labels["_id"])
    assert parity(plan, settings(), records=True).equal


def test_park_keeps_what_it_takes_out_and_refuses_what_is_not_there(lived: tuple[Plan, World, Path]) -> None:
    from batch import park as parking

    plan, _, _ = lived
    names = support.names_of(plan)
    head = names.head("customer_id", 0)
    position = int(support.store().hget(head, "position"))
    with pytest.raises(RiskflowError, match="no stage"):
        parking.park(plan, settings(), "shop", 0, 0)
    with pytest.raises(RiskflowError, match="has passed offset"):
        parking.park(plan, settings(), "customer_id", 0, position - 1)
    with pytest.raises(RiskflowError, match="holds offsets"):
        parking.park(plan, settings(), "customer_id", 0, position)
    support.store().hset(head, "position", position - 1)  # as a worker that cannot apply the last block
    try:
        done = parking.park(plan, settings(), "customer_id", 0, position - 1)
        assert done.new
        assert done.rows > 0
        assert not parking.park(plan, settings(), "customer_id", 0, position - 1).new
        assert json.loads(support.store().hget(head, "parked")) == [position - 1]
        assert done.kept.is_file()
        done.kept.unlink()
    finally:
        support.store().hset(head, "position", position)
        support.store().hdel(head, "parked")


@pytest.mark.long
def test_a_parked_block_is_shown_and_the_rest_stays_exact(lived: tuple[Plan, World, Path]) -> None:
    from batch.park import park
    from batch.rebuild import rebuild

    plan, _, log = lived
    world = cases.renamed(make_world(500, seed=4, customers=60, terminals=20), "p-")
    cases.killed_while_messages_come(plan, world, log, "after_send:30")
    stage, partition, offset = [x for x in cases.behind(plan) if x[0] in plan.entities][-1]
    done = park(plan, settings(), stage, partition, offset)
    assert done.rows > 0
    cases.run_until_done(plan, log)
    archive(plan, settings())
    assert parity(plan, settings(), records=True).equal
    names, folder = support.names_of(plan), settings().lake_folder
    rejected = lake.read_topic(folder, names.rejected).filter(pl.col("error_type") == "parked")
    taken_out = {json.loads(v)["id"] for v in rejected["_value"]}
    assert 0 < len(taken_out) <= done.rows
    left = {i for i in cases.row_ids(plan) if i.startswith("p-")}
    assert left | taken_out == set(cases.expected_ids(world))  # both, where it had been sent before it was taken out
    known = cases.records(plan, cases.names_now(plan))
    rebuild(plan, settings())
    assert cases.records(plan, cases.names_now(plan)) == known


@pytest.mark.long
def test_what_comes_while_parity_looks_is_on_its_way(
    lived: tuple[Plan, World, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _, log = lived
    cases.produce(cases.renamed(make_world(300, seed=5, customers=60, terminals=20), "w-").messages)
    archive(plan, settings())
    log_ranges, read_topic, read = Cluster.log_ranges, lake.read_topic, list[str]()

    def noted(folder: Path, topic: str, *columns: Any, **options: Any) -> pl.DataFrame:
        read.append(topic)
        return read_topic(folder, topic, *columns, **options)

    def then_the_stream_runs(cluster: Cluster, topics: dict[str, int]) -> Any:
        patch.undo()
        found = log_ranges(cluster, topics)
        assert support.names_of(plan).rows in read, "a row archived later may come after one that is not in the ranges"
        cases.run_until_done(plan, log)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(lake, "read_topic", noted)
        patch.setattr(Cluster, "log_ranges", then_the_stream_runs)
        found = parity(plan, settings())
    assert found.equal, found.summary()
    archive(plan, settings())
    assert parity(plan, settings(), records=True).equal
