"""Nothing is lost or counted twice when workers are killed at the worst moments.

Longer runs: `make chaos`, or RISKFLOW_CHAOS_EVENTS, RISKFLOW_CHAOS_KILLS and RISKFLOW_CHAOS_SEED.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch import topics as batch_topics
from ops.local import Services
from riskflow.settings import settings
from riskflow.warmup import warm_up
from tests import support
from tests.chaos import observer
from tests.chaos.kills import POINTS, RANDOM, Victim
from tests.chaos.world import Pacer, make_world

EVENTS = int(os.environ.get("RISKFLOW_CHAOS_EVENTS", "6000"))
KILLS = int(os.environ.get("RISKFLOW_CHAOS_KILLS", "5"))
SEED = int(os.environ.get("RISKFLOW_CHAOS_SEED", "1"))
PER_S = float(os.environ.get("RISKFLOW_CHAOS_PER_S", "400"))
PARTITIONS = 4

pytestmark = [pytest.mark.services, pytest.mark.timeout(1800)]


@pytest.fixture
def prefixed(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Topics and keys of this test's own."""
    monkeypatch.setenv("RISKFLOW_TOPIC_PREFIX", "kills.")
    settings.cache_clear()
    yield "kills."
    settings.cache_clear()


def test_every_event_has_one_score_whatever_is_killed(prefixed: str, tmp_path: Path) -> None:
    plan = support.plan_of()
    warm_up(plan)  # a worker's first start compiles; that is not what is measured here
    conf = settings()
    batch_topics.make(plan, conf, PARTITIONS)
    names = support.names_of(plan)
    support.publish_small(plan, "the first")
    world = make_world(EVENTS, SEED)
    reader = observer.Topics(conf.kafka, names)
    victim = Victim(
        plan.name, reader, lambda: support.publish_small(plan, "a swap to kill in"), SEED, str(tmp_path / "worker.log")
    )
    pacer = Pacer(world, conf.kafka, prefixed, plan.name, PER_S)
    try:
        pacer.start()
        for i in range(KILLS):
            pacer.allowed = (i + 1) / (KILLS + 1)
            victim.kill_at((*POINTS, RANDOM)[i % (len(POINTS) + 1)])
        pacer.allowed = 1.0
        victim.start()
        pacer.join()
        assert pacer.error is None
        wanted = world.ids("score")
        observer.wait_until(
            lambda: reader.end(names.scores) >= len(wanted) and not _lag(reader, plan, names), 120, "scoring everything"
        )
        stopped_s = victim.stop()
        outcome = reader.outcome()
    finally:
        victim.close()
        reader.close()
        print((tmp_path / "worker.log").read_text()[-4000:])
    result = check(plan, names, world, outcome)
    result |= {"kills": KILLS, "kills_counted": sum(victim.report.counted.values()), "stopped_s": round(stopped_s, 1)}
    result |= {"recovery_max_s": round(max(victim.report.recovery_s), 1), "seed": SEED}
    print(json.dumps(result))
    assert stopped_s < 20
    assert result["kills_counted"] == KILLS
    assert {k: result[k] for k in CLEAN} == CLEAN
    assert len(outcome.versions) >= 2


CLEAN: dict[str, Any] = {
    "missing": 0, "extra": 0, "differing_scores": 0, "rejected_wrong": 0, "rows_missing": 0, "rows_sent_differently": 0,
    "differing_features": {}, "differing_records": 0,
}  # fmt: skip


def check(plan: Any, names: Any, world: Any, outcome: observer.Outcome) -> dict[str, Any]:
    """Everything that must hold, as counts."""
    wanted = world.ids("score")
    rows, sent_differently = observer.effective_rows(outcome.blocks)
    ids = rows["_id"].strings()
    expected_rows = wanted | world.ids("row")
    return {
        "events": len(world.messages),
        "scored": len(outcome.scores),
        "missing": len(wanted - set(outcome.scores)),
        "extra": len(set(outcome.scores) - wanted),
        "differing_scores": sum(len(set(values)) > 1 for values in outcome.scores.values()),
        "rejected_wrong": abs(len(world.ids("rejected")) - len(outcome.rejected)),
        "rows_missing": len(expected_rows ^ set(ids)) + abs(len(ids) - len(expected_rows)),
        "rows_sent_differently": sent_differently,
        "differing_features": observer.differing_features(plan, rows),
        "differing_records": observer.differing_records(plan, rows, names, support.store(), PARTITIONS),
    }


def _lag(reader: observer.Topics, plan: Any, names: Any) -> bool:
    """Whether any stage has blocks that its head has not applied."""
    store = support.store()
    for stage, topic, _ in batch_topics.stages(plan, names):
        positions = [int(store.hget(names.head(stage, p), "position")) for p in range(PARTITIONS)]
        if sum(positions) < reader.end(topic):
            return True
    return False
