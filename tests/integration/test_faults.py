"""What a worker does when what it stands on goes away or is another one: it waits, or ends saying what to run.

Each test has its own Kafka and Redis, for they are stopped, emptied and replaced. RISKFLOW_OUTAGE_S sets how long
an outage lasts (30 in `make chaos`, which also runs the tests marked long).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from batch import topics as batch_topics
from ops import local
from ops.local import Services
from riskflow.keys import make_keys
from riskflow.settings import settings
from tests import support
from tests.integration.worker import Bench, bench, event

OUTAGE_S = float(os.environ.get("RISKFLOW_OUTAGE_S", "8"))
NOT_READY = 3

pytestmark = [pytest.mark.services, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, pytest.MonkeyPatch]]:
    """Kafka and Redis of this module alone."""
    with pytest.MonkeyPatch.context() as patch:
        for service in local.SERVICES.values():  # addresses of the other tests' services are not for these
            patch.delenv(service.variable, raising=False)
        with local.running(tmp_path_factory.mktemp("faults"), airflow=False, usual_ports=False) as found:
            for name, value in found.environment().items():
                patch.setenv(name, value)
            settings.cache_clear()
            yield found, patch
    settings.cache_clear()


@pytest.fixture
def stream(own: tuple[Services, pytest.MonkeyPatch], request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A worker that has scored one event."""
    _, patch = own
    prefix = request.node.name.removeprefix("test_")[:20].strip("_") + "."
    with bench(prefix, tmp_path / "worker.log", patch) as made:
        support.publish_small(made.plan)
        made.start()
        made.send("events", event("first"))
        made.wait_scored({"first"}, 120)
        yield made


def test_redis_away_for_a_while_only_delays(stream: Bench, own: Any) -> None:
    home = own[0].home
    local.stop(home, "redis")
    stream.send("events", *(event(f"meanwhile {i}") for i in range(20)))
    time.sleep(OUTAGE_S)
    assert stream.process is not None
    local.start(home, "redis")
    stream.send("events", event("after"))
    scores = stream.wait_scored({"after", *(f"meanwhile {i}" for i in range(20))}, 90)
    assert len(scores) == 22
    assert stream.process.poll() is None, "the worker waited; it did not end"


@pytest.mark.long
def test_kafka_away_for_a_while_only_delays(stream: Bench, own: Any) -> None:
    home = own[0].home
    local.stop(home, "kafka")
    time.sleep(OUTAGE_S)
    local.start(home, "kafka")
    stream.send("events", event("after"))
    assert stream.process is not None
    if stream.process.poll() is not None:  # its supervisor would have started it again
        stream.start()
    assert len(stream.wait_scored({"after"}, 120)) == 2


@pytest.mark.long
def test_sigterm_ends_a_worker_within_20_s_with_kafka_up_and_down(stream: Bench, own: Any) -> None:
    home = own[0].home
    assert stream.stop() < 20
    stream.start()
    stream.send("events", event("again"))
    stream.wait_scored({"again"}, 120)
    local.stop(home, "kafka")
    try:
        assert stream.stop() < 20
    finally:
        local.start(home, "kafka")


def test_an_emptied_redis_ends_the_worker_with_the_command(stream: Bench) -> None:
    support.store().flushall()
    stream.send("events", event("into nothing"))
    stream.ended()
    stream.start()
    assert stream.ended() == NOT_READY
    assert "riskflow rebuild card_fraud" in stream.said()
    with pytest.raises(Exception, match="riskflow rebuild"):
        batch_topics.make(stream.plan, stream.conf, stream.partitions)


def test_a_topic_made_again_ends_the_worker_with_the_command(stream: Bench) -> None:
    stream.stop()
    topic = stream.names.by("customer_id")
    admin = KafkaAdminClient(bootstrap_servers=stream.conf.kafka)
    admin.delete_topics([topic])
    admin.close()
    time.sleep(1)
    with batch_topics.Cluster(stream.conf.kafka) as cluster:
        wanted = batch_topics.wanted_topics(stream.plan, stream.names, stream.partitions)
        cluster.make([w for w in wanted if w.name == topic], 1)
    stream.start()
    assert stream.ended() == NOT_READY
    assert "deleted and made again" in stream.said()


@pytest.mark.long
def test_retention_past_the_position_ends_the_worker(stream: Bench) -> None:
    stream.stop()
    stream.send("events", *(event(f"lost {i}") for i in range(40)))
    admin = KafkaAdminClient(bootstrap_servers=stream.conf.kafka)
    topic = stream.names.feed("events")
    admin.delete_records({TopicPartition(topic, p): -1 for p in range(stream.partitions)})
    admin.close()
    stream.start()
    assert stream.ended() == NOT_READY
    assert "outside what the log holds" in stream.said()


@pytest.mark.long
def test_a_missing_topic_ends_the_worker_with_the_command(stream: Bench) -> None:
    stream.stop()
    admin = KafkaAdminClient(bootstrap_servers=stream.conf.kafka)
    admin.delete_topics([stream.names.scores])
    admin.close()
    time.sleep(1)
    stream.start()
    assert stream.ended() == NOT_READY
    assert "riskflow topics card_fraud" in stream.said()


def test_a_bad_bundle_is_not_taken_and_the_live_one_stays(stream: Bench) -> None:
    store, names = support.store(), stream.names
    support.publish_small(stream.plan)
    _wait_version(stream, "second", 2)
    raw = bytearray(store.get(names.bundle(2)))
    raw[len(raw) // 2] ^= 0xFF
    alias = store.hget(names.aliases, "champion")
    store.set(names.bundle(3), bytes(raw))
    store.hset(names.aliases, "champion", alias.replace(b'"version":2', b'"version":3'))
    store.publish(names.notice, b"")
    time.sleep(3)
    stream.send("events", event("after corruption"))
    assert stream.wait_scored({"after corruption"})["after corruption"]["bundle"] == 2
    assert "not taken" in stream.said()


@pytest.mark.long
def test_a_bundle_of_a_stranger_is_not_taken(stream: Bench, tmp_path: Path) -> None:
    from riskflow.keys import load_private_key
    from riskflow.registry import Registry

    make_keys(tmp_path / "stranger")
    registry = Registry(support.store(), stream.names)
    bundle = support.small_bundle(stream.plan)
    registry.publish(bundle, load_private_key(tmp_path / "stranger"), who="a stranger", why="to steal")
    time.sleep(3)
    stream.send("events", event("after the stranger"))
    assert stream.wait_scored({"after the stranger"})["after the stranger"]["bundle"] == 1
    assert "not taken" in stream.said()


@pytest.mark.long
def test_without_a_bundle_events_wait_on_kafka(own: tuple[Services, pytest.MonkeyPatch], tmp_path: Path) -> None:
    with bench("nobundle.", tmp_path / "worker.log", own[1]) as made:
        make_keys(made.conf.keys_folder)
        made.start()
        made.send("events", event("waits"))
        support.wait(lambda: "no bundle has been published" in made.said(), 120)
        assert made.scores() == {}
        support.publish_small(made.plan)
        made.wait_scored({"waits"}, 30)


def _wait_version(stream: Bench, name: str, version: int) -> None:
    """Sends events until one is scored by this version."""
    for i in range(20):
        stream.send("events", event(f"{name} {i}"))
        if stream.wait_scored({f"{name} {i}"})[f"{name} {i}"]["bundle"] == version:
            return
        time.sleep(0.5)
    raise AssertionError(f"bundle {version} did not go live")
