"""A feed that is deleted and made again while nothing comes: its new log would be read from the old one's position."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import pytest
from kafka.errors import TopicAlreadyExistsError

from batch import topics as batch_topics
from ops.local import Services
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


async def test_ids_are_asked_for_over_one_connection(services: Services) -> None:
    ids = TopicIds(services.environment()["RISKFLOW_KAFKA"])
    assert await ids.of(["nothing.of.this.name"]) == {}
    admin = ids._admin
    assert await ids.of(["nothing.of.this.name"]) == {}
    assert ids._admin is admin is not None
