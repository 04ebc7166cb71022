"""Drift on real Kafka: what workers count is what the archive says, and a topic that is gone stops nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.archive import archive
from batch.drift import look, table_of
from batch.past import archived_rows
from batch.profile import profile_of
from batch.run import Run
from batch.snapshots import read_snapshots
from batch.topics import Cluster
from riskflow.bundle import Bundle
from riskflow.columns import take
from riskflow.drift import Reference, merge
from riskflow.evaluate import KIND
from riskflow.keys import load_private_key
from riskflow.plan import Plan
from riskflow.registry import Registry
from riskflow.scoring import Scorer
from riskflow.settings import settings
from tests import support
from tests.chaos.world import World, make_world
from tests.integration import batch_cases as cases

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
OFTEN = {"RISKFLOW_DRIFT_S": "0.3", "RISKFLOW_DRIFT_SHARE": "1"}


def publish_with_profile(plan: Plan) -> Bundle:
    """A champion that knows what its inputs looked like."""
    rows, bundle = support.made_up_rows(plan), support.small_bundle(plan)
    scorer = Scorer(plan, bundle)
    profile = profile_of(plan, scorer.values(rows), rows, scorer.score(rows).score, rows)
    manifest = json.loads(json.dumps({**bundle.manifest, "profile": profile}))
    key = load_private_key(settings().keys_folder)
    registry = Registry(support.store(), support.names_of(plan))
    return registry.publish(replace(bundle, manifest=manifest), key, who="test", why="with a profile")


@pytest.fixture(scope="module")
def lived(services: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plan, World, Bundle, Path]]:
    """A small world, scored by a real worker that counts all of it."""
    with cases.prefixed("drift."):
        plan = cases.prepared(partitions=2)
        bundle = publish_with_profile(plan)
        world = make_world(600, seed=5, customers=40, terminals=15)
        cases.produce(world.messages)
        log = tmp_path_factory.mktemp("worker") / "worker.log"
        names = support.names_of(plan)
        with cases.worker(log, **OFTEN):
            cases.wait_until(lambda: cases.at_rest(plan))
            cases.wait_until(lambda: counted(names) >= len(world.ids("score")))
        yield plan, world, bundle, log


def counted(names: Any) -> int:
    return sum(s.events for s in read_snapshots(settings(), names))


def test_what_the_worker_counted_is_what_the_archive_says(lived: tuple[Plan, World, Bundle, Path]) -> None:
    plan, world, bundle, _ = lived
    archive(plan, settings())
    run, reference = Run.of(plan, settings(), "tried"), Reference.of(bundle.profile)
    whole = archived_rows(run, [n for n in reference.names if n in plan.nodes])
    rows = take(whole, np.flatnonzero(np.asarray(whole[KIND]) == 0))
    snapshots = read_snapshots(settings(), run.names)
    assert {(s.bundle, s.hash, s.share) for s in snapshots} == {(bundle.version, bundle.content_hash, 1.0)}
    merged = merge(snapshots)
    assert merged is not None
    assert merged.events == len(world.ids("score"))
    np.testing.assert_array_equal(reference.table(merged.counts), table_of(reference, bundle, rows))


def test_a_look_at_snapshots_finds_what_a_look_at_rows_finds(lived: tuple[Plan, World, Bundle, Path]) -> None:
    plan, world, bundle, _ = lived
    archive(plan, settings())
    run = Run.of(plan, settings(), "tried")
    by_rows = look(run, bundle, from_ms=0)
    by_counts = look(run, bundle, source="snapshots")
    assert by_counts.events == by_rows.events == len(world.ids("score"))
    shares = [{f.name: (f.missing, f.missing_then) for f in found.features} for found in (by_rows, by_counts)]
    assert shares[0] == shares[1]
    assert by_counts.estimated is None
    assert "no worker has counted" in look(run, bundle, source="snapshots", from_ms=2**50).says


def test_a_topic_that_is_gone_stops_no_score(lived: tuple[Plan, World, Bundle, Path]) -> None:
    plan, _, _, log = lived
    names = support.names_of(plan)
    with Cluster(settings().kafka) as cluster:
        cluster.admin.delete_topics([names.drift])
    world = cases.renamed(make_world(200, seed=6, customers=40, terminals=15), "x")
    cases.produce(world.messages)
    with cases.worker(log, **OFTEN):
        cases.wait_until(lambda: cases.at_rest(plan))
    archive(plan, settings())
    assert set(world.ids("score")) <= set(cases.row_ids(plan))
