"""What a real worker has scored, scored again in batch: every score and decision the same, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch import lake
from batch.archive import archive
from batch.backtest import backtest
from batch.read_only import Shelf
from batch.retrain import Run
from batch.score_batch import past_for, score_columns, score_table
from batch.topics import Cluster
from ops.local import Services
from riskflow.plan import Plan
from riskflow.scoring import Scorer
from riskflow.settings import settings
from tests import support
from tests.chaos.world import World, make_world
from tests.integration import batch_cases as cases

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def lived(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plan, World]]:
    """A small world, scored by a real worker that has been stopped, and archived."""
    with cases.prefixed("backtest."):
        plan = cases.prepared(partitions=2)
        world = make_world(1500, seed=4, customers=60, terminals=20)
        cases.produce(world.messages)
        cases.run_until_done(plan, tmp_path_factory.mktemp("worker") / "worker.log")
        archive(plan, settings())
        yield plan, world


def all_that_is_live() -> tuple[dict[bytes, Any], Any]:
    """Every key of Redis, and where every topic begins and ends."""
    store = support.store()
    with Cluster(settings().kafka) as cluster:
        counts = {topic: n for topic, (_, n) in cluster.topics().items()}
        return {key: store.dump(key) for key in store.scan_iter()}, cluster.log_ranges(counts)


@pytest.mark.parametrize("fold", [False, True])
def test_the_champion_repeats_what_the_worker_decided(lived: tuple[Plan, World], fold: bool) -> None:
    plan, world = lived
    run = Run.of(plan, settings(), "backtest")
    before = all_that_is_live()
    shelf = Shelf(plan, settings())
    champion = shelf.bundle("champion")
    found = backtest(run, champion, shelf.needs, segments=["channel"], fold=fold).summary()
    columns = past_for(run, champion, shelf.needs, fold=fold).columns
    scores = score_columns(Scorer(plan, champion), columns, reasons=True)
    assert all_that_is_live() == before
    assert found["own"] == {"events": found["events"], "flips": 0}
    assert found["features"] == ("worked out again: asked for" if fold else "as archived")
    sent = lake.read_scores(plan, support.names_of(plan), settings().lake_folder)
    table = score_table(champion, columns, scores, reasons=True)
    table = table.filter(table["score"].is_not_nan())
    assert set(table["event_id"]) == world.ids("score")
    names = ["event_id", "score", "band", "action", "bundle"]
    table, sent = table.sort("event_id"), sent.sort("event_id")
    assert table.select(names).rows() == sent.select(names).rows()
    assert table["reasons"].to_list() == [json.loads(words) for words in sent["reasons"]]


def test_the_kept_forecast_lies_in_the_lake_alone(lived: tuple[Plan, World], tmp_path: Path) -> None:
    from batch.forecasts import keep, kept

    plan, _ = lived
    shelf = Shelf(plan, settings())
    found = backtest(Run.of(plan, settings(), "backtest"), shelf.bundle("champion"), shelf.needs)
    assert keep(found, tmp_path).is_relative_to(tmp_path / "_backtests")
    assert [f["bundle"] for f in kept(tmp_path, plan.name)] == [found.about.bundle]
