"""Scores on a real broker are read back over HTTP, after restarts, pauses and a topic that was made again too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from redis import Redis

from ops import local, ports
from riskflow.bundle import Bundle
from riskflow.names import Names
from riskflow.registry import Registry
from riskflow.settings import Settings, load
from serving import progress, reader
from serving.metrics import Metrics
from serving.services import Served, Services

pytestmark = pytest.mark.services
SERVE = "import typer; from cli import serve; app = typer.Typer(); serve.register(app); app()"
EVENT_MS = 1_793_614_500_250
HOUR_MS = 3_600_000


@pytest.fixture
def conf(services: local.Services, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """A home and topic names that no other test has."""
    return load(home=tmp_path, topic_prefix=f"serving{abs(hash(request.node.name))}.")


@pytest.fixture
def names(conf: Settings) -> Names:
    return Names("card_fraud", prefix=conf.topic_prefix)


@pytest.fixture
def topic(conf: Settings, names: Names) -> str:
    make(conf, names.scores)
    return names.scores


def make(conf: Settings, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=conf.kafka)
    admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
    admin.close()


def delete(conf: Settings, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=conf.kafka)
    admin.delete_topics([topic])
    assert eventually(lambda: topic not in admin.list_topics())
    admin.close()


def write(conf: Settings, topic: str, *ids: str, epoch: int = 5, at_ms: int | None = None, band: str = "high") -> None:
    producer = KafkaProducer(bootstrap_servers=conf.kafka)
    for event_id in ids:
        score = {
            "event_id": event_id, "score": 0.5, "band": band, "action": "review", "reasons": ["large"], "bundle": 7,
            "degraded": [], "occurred_at": EVENT_MS, "positions": {"events": "0/1/0"},
        }  # fmt: skip
        headers = [("decided-at", b"1793614500300"), ("epoch", str(epoch).encode()), ("worker", b"host/0")]
        producer.send(
            topic,
            json.dumps(score).encode(),
            event_id.encode(),
            headers,
            timestamp_ms=at_ms,
            partition=len(event_id) % 3,
        )
    producer.flush()
    producer.close()


def eventually(holds: Callable[[], bool], within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds()


@contextmanager
def server(conf: Settings) -> Iterator[httpx.Client]:
    """`riskflow serve` as a process of its own."""
    port = ports.choose()
    environment = {**os.environ, "RISKFLOW_HOME": str(conf.home), "RISKFLOW_TOPIC_PREFIX": conf.topic_prefix}
    environment |= {"RISKFLOW_KAFKA": conf.kafka, "RISKFLOW_REDIS_URL": conf.redis_url}
    with subprocess.Popen([sys.executable, "-c", SERVE, "--port", str(port)], env=environment) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                assert eventually(lambda: alive(client), 60)
                yield client
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) in (0, -signal.SIGTERM)
        finally:
            process.kill()


def alive(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def serving(conf: Settings, retention_s: float = 86_400.0) -> Iterator[Served]:
    """What a server holds, in this process and without HTTP."""
    with Services(conf, Metrics(), retention_s) as services:
        yield services.served["card_fraud"]


def has(served: Served, event_id: str) -> bool:
    return served.store.find(event_id) is not None


def taken(client: httpx.Client) -> float:
    line = next(x for x in client.get("/metrics").text.splitlines() if x.startswith("risk_serving_scores_read_total{"))
    return float(line.split()[-1])


def publish(conf: Settings, names: Names) -> None:
    sections = {
        "usecase": "card_fraud", "version": 1, "code": "abc", "created_at": "2026-11-02T09:00:00Z", "models": [],
        "needed": {}, "policy": {}, "dictionaries": {}, "reference": {}, "profile": {}, "metrics": {"ap": 0.7},
        "data": {},
    }  # fmt: skip
    with Redis.from_url(conf.redis_url) as client:
        key = Ed25519PrivateKey.generate()
        Registry(client, names).publish(Bundle.of(sections, {}), key, who="test", why="first")


def test_scores_are_read_back_over_http_and_a_restart_goes_on(conf, names, topic):
    strange = ["plain", "a/b", "/", "a b", "🙂" * 128, "%2F", "line\nbreak", "?x#y", "+"]
    write(conf, topic, *strange)
    write(conf, topic, "plain", epoch=4, band="stale")
    with server(conf) as client:
        assert eventually(lambda: taken(client) == len(strange) + 1)
        for event_id in strange:
            answer = client.get(f"/v1/card_fraud/scores/{quote(event_id, safe='')}")
            assert answer.status_code == 200, answer.text
            assert answer.json()["event_id"] == event_id
        body = client.get("/v1/card_fraud/scores/plain").json()
        assert (body["band"], body["epoch"], body["worker"], body["decided_at_ms"]) == (
            "high",
            5,
            "host/0",
            1793614500300,
        )
        assert client.get("/v1/card_fraud/scores/a/b").json()["event_id"] == "a/b"  # a slash may stand as it is
        assert client.get("/v1/card_fraud/scores/none").headers["content-type"] == "application/problem+json"

        checks = {c["name"]: c["ok"] for c in client.get("/readyz").json()["checks"]}
        assert checks == {"kafka": True, "redis": True, "card_fraud.scores": True, "card_fraud.champion": False}
        publish(conf, names)
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/card_fraud/models").json()["versions"][0]["metrics"] == {"ap": 0.7}
    write(conf, topic, "while away")
    with server(conf) as client:
        assert eventually(lambda: client.get("/v1/card_fraud/scores/while%20away").status_code == 200)
        assert client.get("/v1/card_fraud/scores/plain").status_code == 200
        assert taken(client) == 1


def test_reading_begins_one_retention_back(conf, topic):
    now_ms = int(time.time() * 1000)
    write(conf, topic, "old", at_ms=now_ms - 3 * HOUR_MS)
    write(conf, topic, "new", at_ms=now_ms - HOUR_MS // 2)
    write(conf, topic, "only old", at_ms=now_ms - 3 * HOUR_MS)  # in a partition that has nothing younger
    with serving(conf, retention_s=3600) as served:
        assert eventually(lambda: served.progress.status().caught_up and has(served, "new"))
        assert not has(served, "only old")
        write(conf, topic, "only new")
        assert eventually(lambda: has(served, "only new"))
    with serving(conf, retention_s=600) as served:
        assert eventually(lambda: not has(served, "new"))
        assert has(served, "only new")


def test_a_topic_that_comes_later_is_read_from_then_on(conf, names):
    with serving(conf) as served:
        assert eventually(lambda: not served.progress.status().set_up)
        make(conf, names.scores)
        write(conf, names.scores, "first")
        assert eventually(lambda: has(served, "first") and served.progress.status().caught_up)


def test_a_topic_that_was_made_again_is_read_from_its_start(conf, topic, monkeypatch):
    monkeypatch.setattr(reader, "TOPIC_EVERY_S", 0.5)
    write(conf, topic, "before", "Before")
    with serving(conf) as served:
        assert eventually(lambda: has(served, "Before"))
        delete(conf, topic)
        make(conf, topic)
        write(conf, topic, "behind")  # at an offset that was read before
        assert eventually(lambda: has(served, "behind"))


def test_a_broker_that_is_away_is_told_and_waited_for(conf, topic, services, monkeypatch):
    monkeypatch.setattr(progress, "SILENT_S", 2.0)
    monkeypatch.setattr(reader, "ANSWER_MS", 1_000)
    write(conf, topic, "before")
    with serving(conf) as served:
        assert eventually(lambda: has(served, "before"))
        local.pause(services.home, "kafka")
        try:
            assert eventually(lambda: not served.progress.status().reachable)
        finally:
            local.resume(services.home, "kafka")
        write(conf, topic, "after")
        assert eventually(lambda: has(served, "after") and served.progress.status().reachable, 40)


def test_strange_records_are_counted_and_passed_over(conf, topic):
    producer = KafkaProducer(bootstrap_servers=conf.kafka)
    for value in (None, b"\xff", b"{}"):
        producer.send(topic, value, b"key", partition=0)
    producer.flush()
    producer.close()
    write(conf, topic, "abc")
    with server(conf) as client:
        assert eventually(lambda: client.get("/v1/card_fraud/scores/abc").status_code == 200)
        assert 'risk_serving_scores_unreadable_total{use_case="card_fraud"} 3.0' in client.get("/metrics").text
