"""What a real worker has scored, scored again in batch: every score and decision the same, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from batch import dataset, lake, retrain
from batch.archive import archive
from batch.backtest import backtest
from batch.let_through import read_decisions
from batch.pipeline_review import Review
from batch.read_log import read_log
from batch.read_only import Shelf
from batch.review_sample import DECISION, review_step
from batch.run import Run
from batch.score_batch import past_for, score_columns, score_table
from batch.topics import Cluster
from batch.training_set import TrainingSet
from ops.local import Services
from riskflow.plan import Plan
from riskflow.policy import LET_THROUGH
from riskflow.scoring import Scorer
from riskflow.settings import settings
from tests import support
from tests.chaos.world import World, make_world
from tests.integration import batch_cases as cases

DECLINE = 0.001  # below what the small model says of anything
pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def lived(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plan, World]]:
    """A small world, scored by a real worker that has been stopped, and archived. Of what it declines, half goes on."""
    with cases.prefixed("backtest."):
        plan = cases.prepared(partitions=2)
        support.publish_small(plan, review=DECLINE, decline=DECLINE, let_through=0.5)
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


def test_the_scores_say_who_was_let_through(lived: tuple[Plan, World]) -> None:
    plan, _ = lived
    run = Run.of(plan, settings(), "let")
    found = read_decisions(run)
    sent = lake.read_scores(plan, run.names, settings().lake_folder)
    high = sent.filter(pl.col("score") >= DECLINE)
    let = high.filter(pl.col("reasons").str.contains(LET_THROUGH))
    assert len(found.let) == len(let) > 3
    assert set(found.share.tolist()) == {0.5}
    assert set(let["action"]) == {"review"}
    assert set(high.join(let, on="event_id", how="anti")["action"]) == {"decline"}


def test_a_sample_goes_before_people_with_the_odds_that_are_kept(lived: tuple[Plan, World]) -> None:
    """Thresholds come from the registry; the topic holds what the sample holds, and done again it is the same."""
    plan, world = lived
    run = Run.of(plan, settings(), "review")
    file = msgspec.structs.replace(run.pipeline.file, review=Review(uncertain=0.02, random=0.05))
    run = replace(run, pipeline=replace(run.pipeline, file=file))
    done = review_step(run)
    assert done["events"] == len(world.ids("score"))
    kept = pl.read_parquet(done["kept"])
    chosen = kept.filter(pl.col("why") != DECISION)
    assert done["sent"] == len(chosen) == done["uncertain"] + done["random"] > 10
    with Cluster(settings().kafka) as cluster:
        end = cluster.log_ranges({run.names.review: 1})[run.names.review, 0][1]
    messages = [r for _, records, _, _ in read_log(settings().kafka, run.names.review, {0: (0, end)}) for r in records]
    assert [msgspec.json.decode(m.value) for m in messages] == chosen.to_dicts()
    assert [m.key.decode() for m in messages] == chosen["event_id"].to_list()
    again = review_step(run, done["from_ms"], done["to_ms"], tell_kafka=False)
    assert pl.read_parquet(again["kept"]).equals(kept)
    assert review_step(run)["events"] == 0


def test_a_training_set_from_a_real_archive_is_made_again(lived: tuple[Plan, World]) -> None:
    """Its files are merged meanwhile."""
    plan, _ = lived
    run = Run.of(plan, settings(), "version")
    file = msgspec.structs.replace(run.pipeline.file, span="90d", maturity="1s")
    run = replace(run, pipeline=replace(run.pipeline, file=file))
    retrain.replay_frame(run)
    data, manifest = TrainingSet.read(run.folder / retrain.FRAME), dataset.read(run.folder)
    assert len(data) > 500
    folder = settings().lake_folder
    for partition in (0, 1):
        mine = [p for p in lake.parts(folder, run.names.rows) if p.partition == partition]
        table = pl.concat([pl.read_parquet(p.path) for p in mine], how="diagonal_relaxed")
        for part in mine:
            part.path.unlink()
        table.write_parquet(mine[0].path.with_name(lake.part_name(partition, mine[0].first, mine[-1].last)))
    assert dataset.rebuild(run, manifest).table().equals(data.table())


def test_the_kept_forecast_lies_in_the_lake_alone(lived: tuple[Plan, World], tmp_path: Path) -> None:
    from batch.forecasts import keep, kept

    plan, _ = lived
    shelf = Shelf(plan, settings())
    found = backtest(Run.of(plan, settings(), "backtest"), shelf.bundle("champion"), shelf.needs)
    assert keep(found, tmp_path).is_relative_to(tmp_path / "_backtests")
    assert [f["bundle"] for f in kept(tmp_path, plan.name)] == [found.about.bundle]
