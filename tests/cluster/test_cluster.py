"""State on a Redis Cluster: the partitions are spread over three masters, and kills change nothing.

`make cluster` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from batch import topics as batch_topics
from ops.local import Services
from riskflow.connect import connect
from riskflow.registry import Registry
from riskflow.settings import settings
from riskflow.warmup import warm_up
from tests import support
from tests.chaos.observer import wait_until
from tests.chaos.world import Pacer, World, make_world
from tests.cluster import observer
from tests.cluster.kills import Victim
from tests.cluster.masters import Masters, running

pytestmark = [pytest.mark.services, pytest.mark.cluster, pytest.mark.timeout(900)]
PARTITIONS, EVENTS, PER_S, SEED = 4, 3000, 200.0, 3
KILL_AT = ("after_load", "after_send", "during_swap", "after_commit")


@pytest.fixture
def masters(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Masters]:
    """Everything that asks for Redis gets the cluster."""
    with running(tmp_path) as found:
        monkeypatch.setenv("RISKFLOW_REDIS_URL", found.url)
        monkeypatch.setenv("RISKFLOW_TOPIC_PREFIX", f"cluster{found.ports[0]}.")
        settings.cache_clear()
        yield found
        settings.cache_clear()


class Stream:
    """The card_fraud stream on the cluster, with a champion."""

    def __init__(self, log: Path) -> None:
        self.plan, self.conf = support.plan_of(), settings()
        warm_up(self.plan)
        batch_topics.make(self.plan, self.conf, PARTITIONS)
        self.names = support.names_of(self.plan)
        support.publish_small(self.plan, "the first")
        self.reader = observer.Topics(self.conf.kafka, self.names)
        self.victim = Victim(self.plan.name, self.reader, self.publish, SEED, str(log))

    def publish(self) -> None:
        support.publish_small(self.plan, "a swap")

    def wait_done(self, world: World) -> None:
        wanted = world.ids("score")
        wait_until(
            lambda: self.reader.end(self.names.scores) >= len(wanted) and not self.lags(), 180, "scoring everything"
        )

    def lags(self) -> bool:
        with connect(self.conf.redis_url) as store:
            for stage, topic, _ in batch_topics.stages(self.plan, self.names):
                positions = [int(store.hget(self.names.head(stage, p), "position")) for p in range(PARTITIONS)]
                if sum(positions) < self.reader.end(topic):
                    return True
        return False

    def check(self, world: World) -> None:
        """One score for each event, the same however often it was sent; rows and records are a replay's."""
        outcome = self.reader.outcome()
        assert set(outcome.scores) == world.ids("score")
        assert [name for name, values in outcome.scores.items() if len(set(values)) > 1] == []
        rows, sent_differently = observer.effective_rows(outcome.blocks)
        ids: Any = rows["_id"]
        assert sorted(ids.strings()) == sorted(world.ids("score") | world.ids("row"))
        assert sent_differently == 0
        assert observer.differing_features(self.plan, rows) == {}
        with connect(self.conf.redis_url) as store:
            assert observer.differing_records(self.plan, rows, self.names, store, PARTITIONS) == 0

    def close(self) -> None:
        self.victim.close()
        self.reader.close()


@pytest.fixture
def stream(masters: Masters, tmp_path: Path) -> Iterator[Stream]:
    made = Stream(tmp_path / "worker.log")
    yield made
    made.close()
    print((tmp_path / "worker.log").read_text()[-3000:])


def test_a_worker_that_is_killed_loses_nothing_on_a_cluster(masters: Masters, stream: Stream) -> None:
    world = make_world(EVENTS, SEED)
    pacer = Pacer(world, stream.conf.kafka, stream.conf.topic_prefix, stream.plan.name, PER_S)
    pacer.start()
    for i, point in enumerate(KILL_AT):
        pacer.allowed = (i + 1) / (len(KILL_AT) + 1)
        stream.victim.kill_at(point)
    pacer.allowed = 1.0
    stream.victim.start()
    pacer.join()
    assert pacer.error is None
    stream.wait_done(world)
    stream.victim.stop()
    assert sum(stream.victim.report.counted.values()) == len(KILL_AT)
    assert min(masters.keys().values()) > 0, "all on one shard proves nothing"
    stream.check(world)
    with connect(stream.conf.redis_url) as store:
        assert len(Registry(store, stream.names).history("champion")) >= 2


def test_scoring_waits_for_a_master_that_is_away(masters: Masters, stream: Stream) -> None:
    world = make_world(600, SEED + 1)
    half = len(world.messages) // 2
    stream.victim.start()
    send(stream, world.messages[:half])
    wait_until(stream.victim.has_scored, 120, "a score")
    masters.kill(masters.ports[1])
    send(stream, world.messages[half:])
    scored = stream.victim.scored()
    masters.start(masters.ports[1])
    stream.wait_done(world)
    assert stream.victim.scored() > scored
    assert stream.victim.process is not None
    assert stream.victim.process.poll() is None, "the worker waits, it does not end"
    stream.victim.stop()
    stream.check(world)


def send(stream: Stream, messages: list[Any]) -> None:
    producer = KafkaProducer(bootstrap_servers=stream.conf.kafka)
    for message in messages:
        producer.send(stream.names.feed(message.feed), value=message.value, key=message.id.encode())
    producer.flush(60)
    producer.close()
