"""Publishing done again: one bundle gets one version, another bundle of the same run gets its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fakeredis
import pytest

from batch import retrain
from batch.bundling import build_bundle
from batch.compare import Comparison
from batch.gates import Gate
from batch.judge import Verdict
from batch.publish import GatesFailed, write_verdict
from batch.run import Run
from riskflow.bundle import Bundle
from riskflow.keys import load_private_key, make_keys
from riskflow.policy import Policy
from riskflow.registry import Overtaken, Registry
from riskflow.settings import PROJECT, load
from tests.support import plan_of


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    made = Run.of(plan_of(), load(home=tmp_path), "nightly")
    make_keys(made.conf.keys_folder)
    registry = Registry(fakeredis.FakeRedis(), made.names)
    monkeypatch.setattr(Run, "registry", lambda *_: registry)
    judged(made, "09:00")
    return made


def judged(run: Run, created_at: str, passed: bool = True) -> None:
    """What `judge` leaves: a bundle, and a verdict."""
    policy = Policy.load(PROJECT / "usecases/card_fraud/policy.yaml")
    bundle = build_bundle(run.plan, models={}, policy_numbers=policy.start())
    gates = [Gate("metric", passed, 0.7, "at least 0.5")]
    write_verdict(Verdict(run.plan.name, "forest", gates, {}, Comparison("no champion yet")), run.folder)
    made = replace(bundle, manifest={**bundle.manifest, "created_at": created_at})
    (run.folder / retrain.BUNDLE).write_bytes(made.to_bytes())


def versions(run: Run) -> list[int]:
    return list(run.registry().versions())


def test_a_task_that_is_tried_again_publishes_nothing_new(run: Run) -> None:
    first = retrain.publish_run(run)
    written = (run.folder / retrain.PUBLISHED).stat().st_mtime_ns
    assert retrain.publish_run(run) == first == json.loads((run.folder / retrain.PUBLISHED).read_text())
    assert versions(run) == [1]
    assert (run.folder / retrain.PUBLISHED).stat().st_mtime_ns == written, "the newest run stays the newest"


def test_a_crash_after_publishing_leaves_one_version(run: Run) -> None:
    first = retrain.publish_run(run)
    (run.folder / retrain.PUBLISHED).unlink()
    assert retrain.publish_run(run) == first
    assert versions(run) == [1]
    assert len(run.registry().history()) == 1


def test_a_crash_between_storing_and_moving_is_made_good(run: Run) -> None:
    bundle = Bundle.from_bytes((run.folder / retrain.BUNDLE).read_bytes())
    run.registry().add(bundle, load_private_key(run.conf.keys_folder), who="retrain")
    assert retrain.publish_run(run, alias="challenger")["version"] == 1
    assert versions(run) == [1]
    assert run.registry().aliases()["challenger"].version == 1


def test_what_was_overtaken_stays_so_when_it_is_tried_again(run: Run) -> None:
    bundle = Bundle.from_bytes((run.folder / retrain.BUNDLE).read_bytes())
    key = load_private_key(run.conf.keys_folder)
    run.registry().add(bundle, key, who="retrain")
    newer = replace(bundle, manifest={**bundle.manifest, "created_at": "08:59"})
    run.registry().publish(newer, key, who="ann", why="meanwhile")
    with pytest.raises(Overtaken):
        retrain.publish_run(run)
    assert versions(run) == [1, 2]


def test_a_candidate_that_was_trained_again_is_another_bundle(run: Run) -> None:
    retrain.publish_run(run)
    judged(run, "10:00")
    assert retrain.publish_run(run)["version"] == 2
    assert json.loads((run.folder / retrain.PUBLISHED).read_text())["version"] == 2
    assert run.registry().aliases()["champion"].version == 2


def test_one_that_is_refused_after_a_publish_says_so(run: Run) -> None:
    retrain.publish_run(run)
    judged(run, "10:00", passed=False)
    with pytest.raises(GatesFailed, match="metric"):
        retrain.publish_run(run)
    assert versions(run) == [1]


def test_where_somebody_went_back_since_it_is_left_so(run: Run) -> None:
    retrain.publish_run(run)
    judged(run, "10:00")
    retrain.publish_run(run)
    key = load_private_key(run.conf.keys_folder)
    run.registry().rollback(who="ann", why="worse", private_key=key)
    assert retrain.publish_run(run)["version"] == 2
    assert run.registry().aliases()["champion"].version == 1
