"""What a worker does when what it stands on goes away or is another one: it waits, or ends saying what to run.

Each test has its own Kafka and Redis, for they are stopped, emptied and replaced. RISKFLOW_OUTAGE_S sets how long
an outage lasts (30 in `make chaos`, which also runs the tests marked long).
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from batch import topics as batch_topics
from batch.archive import archive
from batch.parity import parity
from batch.read_log import read_log
from batch.rebuild import rebuild
from ops import local
from ops.local import Services
from riskflow.errors import NotReady
from riskflow.keys import make_keys
from riskflow.settings import settings
from stream.lane import LANE_BYTES
from tests import support
from tests.chaos.world import World, make_world
from tests.integration import batch_cases as cases
from tests.integration.worker import Bench, bench, event
from tests.raw_batches import batch, record
from tests.raw_batches import send as put

OUTAGE_S = float(os.environ.get("RISKFLOW_OUTAGE_S", "8"))
NOT_READY, LEAVE = 3, 4
WAITING = 110_000

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


@pytest.mark.long
def test_the_redis_of_another_kafka_ends_the_worker_and_is_left_as_it_was(stream: Bench) -> None:
    stream.stop()
    cases.forget_member()
    url = stream.conf.redis_url.replace("/0", "/1")
    before = _heads_of_another_kafka(stream, url)
    stream.start(RISKFLOW_REDIS_URL=url)
    assert stream.ended() == NOT_READY
    assert "Set RISKFLOW_REDIS_URL and RISKFLOW_KAFKA to a Redis and a Kafka that belong together" in stream.said()
    cases.forget_member()
    with pytest.raises(NotReady, match="belong together"):
        rebuild(stream.plan, stream.conf.model_copy(update={"redis_url": url}))
    assert _hashes(url) == before, "a worker that runs there must not lose its partitions"


@pytest.mark.long
def test_a_redis_of_nobody_ends_the_worker_and_the_right_one_lets_it_go_on(stream: Bench) -> None:
    stream.stop()
    cases.forget_member()
    stream.start(RISKFLOW_REDIS_URL=stream.conf.redis_url.replace("/0", "/2"))
    assert stream.ended() == NOT_READY
    assert "If this is not its Redis, set RISKFLOW_REDIS_URL" in stream.said()
    assert "riskflow rebuild card_fraud" in stream.said()
    stream.start()
    stream.send("events", event("at home again"))
    assert set(stream.wait_scored({"at home again"})) == {"first", "at home again"}


def _heads_of_another_kafka(stream: Bench, url: str) -> dict[bytes, Any]:
    """This worker's heads as they would stand for the same topics on another Kafka."""
    number = int(url.rpartition("/")[2])
    for key in support.store().scan_iter(f"{{{stream.names.prefix}*:head"):
        support.store().copy(key, key, destination_db=number)
        redis.Redis.from_url(url).hset(key, "topic_id", str(uuid.uuid4()))
    return _hashes(url)


def _hashes(url: str) -> dict[bytes, Any]:
    store = redis.Redis.from_url(url)
    return {key: store.hgetall(key) for key in store.scan_iter() if store.type(key) == b"hash"}


@pytest.mark.long
def test_an_older_and_an_empty_redis_in_the_place_of_the_right_one(stream: Bench, own: Any, tmp_path: Path) -> None:
    """What the worker can repeat it repeats; what it cannot it says, and the command that it names mends it."""
    plan, home = stream.plan, own[0].home
    worlds = [cases.renamed(make_world(150, seed=i, customers=15, terminals=8), f"{i}-") for i in range(5)]

    def goes_on(world: World) -> None:
        cases.produce(world.messages)
        stream.wait_scored(world.ids("score"), 120)
        support.wait(lambda: cases.at_rest(plan), 60)

    goes_on(worlds[0])
    local.stop(home, "redis")
    shutil.copytree(home / "redis", tmp_path / "older")
    local.start(home, "redis")
    goes_on(worlds[1])

    _swap(home, tmp_path / "older")
    cases.produce(worlds[2].messages)
    assert stream.ended() == LEAVE
    assert "Redis lost its last writes" in stream.said()
    stream.start()
    goes_on(worlds[2])
    _everything_is_exact(stream, worlds[:3])

    _swap(home, None)
    cases.produce(worlds[3].messages)
    assert stream.ended() == LEAVE
    stream.start()
    assert stream.ended() == NOT_READY
    assert "riskflow rebuild card_fraud" in stream.said()
    _rebuilt(stream, 2)
    goes_on(worlds[3])
    _everything_is_exact(stream, worlds[:4])

    _swap(home, tmp_path / "older")  # of before the rebuild
    cases.produce(worlds[4].messages)
    assert stream.ended() == LEAVE
    stream.start()
    assert stream.ended() == NOT_READY
    assert "Kafka has blocks of generation 2" in stream.said()
    _rebuilt(stream, 3)
    goes_on(worlds[4])
    _everything_is_exact(stream, worlds)


def _swap(home: Path, data: Path | None) -> None:
    """Another Redis comes up on the same port."""
    local.stop(home, "redis")
    shutil.rmtree(home / "redis")
    if data is not None:
        shutil.copytree(data, home / "redis")
    local.start(home, "redis")


def _rebuilt(stream: Bench, generation: int) -> None:
    cases.forget_member()
    assert rebuild(stream.plan, stream.conf).generation == generation
    support.publish_small(stream.plan)
    stream.start()


def _everything_is_exact(stream: Bench, worlds: list[World]) -> None:
    """Each event has one score, sent once or again as the same bytes; features and records are those of a replay."""
    scores = stream.topics.scores()
    assert set(scores) - {"first"} == {i for w in worlds for i in w.ids("score")}
    assert [i for i, sent in scores.items() if len(set(sent)) > 1] == []
    archive(stream.plan, stream.conf)
    found = parity(stream.plan, stream.conf, records=True)
    assert found.equal, found.summary()


@pytest.mark.long
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


@pytest.mark.long
def test_a_lane_that_was_full_before_the_first_bundle_loses_and_repeats_nothing(
    own: tuple[Services, pytest.MonkeyPatch], tmp_path: Path
) -> None:
    with bench("full.", tmp_path / "worker.log", own[1], partitions=1) as made:
        make_keys(made.conf.keys_folder)
        made.start()
        for first in range(0, WAITING, 10_000):
            body = b"".join(record(i, event(f"{first + i:0100}", customer_id=f"{i % 997:0100}")) for i in range(10_000))
            put(made.conf.kafka, made.names.feed("events"), 0, batch(body, 10_000))
        support.wait(lambda: all(_passed(made, stage) for stage in ("events", "customer_id")), 120)
        waiting = sum(len(r.value) for r in _read(made, made.names.by("terminal_id")))
        assert waiting > LANE_BYTES, "more than the last lane takes in"
        assert made.topics.end(made.names.scores) == 0
        support.publish_small(made.plan)
        support.wait(lambda: _passed(made, "terminal_id"), 120)
        scored = Counter(r.key for r in _read(made, made.names.scores))
        assert len(scored) == WAITING
        assert set(scored.values()) == {1}
        assert made.rejected() == []


def _read(stream: Bench, topic: str) -> Iterator[Any]:
    """All records of a topic of one partition, quickly."""
    for _, records, _, _ in read_log(stream.conf.kafka, topic, {0: (0, stream.topics.end(topic))}):
        yield from records


def _passed(stream: Bench, stage: str) -> bool:
    """Whether a stage has applied all of its log, of one partition."""
    topic = {s: t for s, t, _ in batch_topics.stages(stream.plan, stream.names)}[stage]
    return int(support.store().hget(stream.names.head(stage, 0), "position")) == stream.topics.end(topic) > 0


def _wait_version(stream: Bench, name: str, version: int) -> None:
    """Sends events until one is scored by this version."""
    for i in range(20):
        stream.send("events", event(f"{name} {i}"))
        if stream.wait_scored({f"{name} {i}"})[f"{name} {i}"]["bundle"] == version:
            return
        time.sleep(0.5)
    raise AssertionError(f"bundle {version} did not go live")
