"""A feed that is deleted and made again while nothing comes: its new log would be read from the old one's position."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import pytest
from kafka.errors import TopicAlreadyExistsError

from batch import topics as batch_topics
from ops.local import Services
from riskflow.names import Names
from stream.cluster import TopicIds
from tests import support
from tests.integration.worker import Bench, bench, event

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
NOT_READY = 3


def make_again(stream: Bench, topic: str) -> None:
    """While the worker is paused, so that it does not find the topic missing."""
    assert stream.process is not None
    stream.process.send_signal(signal.SIGSTOP)
    with batch_topics.Cluster(stream.conf.kafka) as cluster:
        wanted = batch_topics.wanted_topics(stream.plan, stream.names, stream.partitions)
        old = cluster.topics()[topic]
        cluster.admin.delete_topics([topic])
        while cluster.topics().get(topic, old) == old:
            with suppress(TopicAlreadyExistsError):
                cluster.make([w for w in wanted if w.name == topic], 1)
    stream.process.send_signal(signal.SIGCONT)


@pytest.mark.long
def test_a_feed_made_again_ends_a_worker_that_waits(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench("ids.", tmp_path / "worker.log", monkeypatch) as stream:
        support.publish_small(stream.plan)
        stream.start()
        stream.send("events", event("first"))
        stream.wait_scored({"first"}, 120)
        labels = stream.names.feed("labels")
        make_again(stream, labels)
        assert stream.ended(60) == NOT_READY
        assert f"topic {labels} was deleted and made again" in stream.said()
        assert "riskflow rebuild card_fraud" in stream.said()


async def test_what_is_told_over_one_connection_is_what_kafka_python_tells(services: Services) -> None:
    bootstrap = services.environment()["RISKFLOW_KAFKA"]
    plan, names = support.plan_of("card_fraud"), Names("card_fraud", prefix="told.")
    with batch_topics.Cluster(bootstrap) as cluster:
        cluster.make(batch_topics.wanted_topics(plan, names, 3), 1)
        known = cluster.topics()
    ids = TopicIds(bootstrap)
    mine = sorted(t for t in known if t.startswith("told."))
    assert await ids.of(["nothing.of.this.name"]) == {}
    client = ids._client
    assert await ids.of([*mine, "nothing.of.this.name"]) == {t: known[t][0] for t in mine}
    told = await ids.described(None)
    assert {t: (told[t].topic_id, told[t].partitions) for t in mine} == {t: known[t] for t in mine}
    assert ids._client is client is not None
    await ids.close()
