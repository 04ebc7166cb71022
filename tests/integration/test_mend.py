"""A file of the lake that broke: named by readers, set aside, and its offsets archived again from real Kafka."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from batch import lake, produce, topics
from batch.archive import archive
from batch.lake import BrokenFile
from batch.mend import mend
from batch.produce import Outgoing
from batch.read_log import read_at, read_log
from ops.local import Services
from riskflow.settings import Settings, load
from tests import support
from tests.raw_batches import batch, record
from tests.raw_batches import send as send_batch

pytestmark = pytest.mark.services

TOPIC = "mended.card_fraud.events"


@pytest.fixture
def conf(services: Services, tmp_path: Path) -> Settings:
    """Three files of archived events in a lake of its own."""
    conf = load(topic_prefix="mended.", lake=tmp_path / "lake")
    plan = support.plan_of()
    topics.make(plan, conf, partitions=1)
    for first in (0, 10, 20):
        send(conf, range(first, first + 10))
        archive(plan, conf, only=[TOPIC])
    return conf


def send(conf: Settings, numbers: range) -> None:
    now = int(time.time() * 1000)
    who = {"customer_id": "c1", "terminal_id": "t1", "amount": 2.5}
    events = [{"event_id": f"e{i}", "occurred_at": now, **who} for i in numbers]
    produce.send([Outgoing(TOPIC, None, json.dumps(event).encode(), None) for event in events], conf.kafka)


def test_what_broke_comes_back_and_the_rest_goes_on(conf: Settings) -> None:
    plan, folder = support.plan_of(), conf.lake_folder
    before = lake.read_topic(folder, TOPIC)
    middle, last = lake.parts(folder, TOPIC)[1:]
    for part in (middle, last):  # the last one of a partition says how far the archive is
        part.path.write_bytes(part.path.read_bytes()[:-30])
    with pytest.raises(BrokenFile, match=middle.path.name):
        lake.read_topic(folder, TOPIC)

    assert archive(plan, conf, only=[TOPIC]).added == 0  # nobody is stopped who only writes
    assert len(mend(plan, conf).set_aside) == 2
    send(conf, range(30, 35))
    found = archive(plan, conf, only=[TOPIC])

    assert (found.added, found.gaps) == (25, [])
    after = lake.read_topic(folder, TOPIC)
    assert after.head(30).equals(before)
    assert after[lake.OFFSET].to_list() == list(range(35))
    assert len(mend(plan, conf).back) == 2
    assert archive(plan, conf, only=[TOPIC]).added == 0


def test_a_range_of_a_log_may_begin_and_end_within_a_batch(conf: Settings) -> None:
    """As that of a file which was set aside does: its end is where the shape or the day of messages changed."""
    body = b"".join(record(i, b"%d" % i) for i in range(5))
    first = send_batch(conf.kafka, TOPIC, 0, batch(body, 5))
    [(partition, records, start, last)] = read_log(conf.kafka, TOPIC, {0: (first + 1, first + 4)})
    assert [(r.offset - first, r.value) for r in records] == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert (partition, start - first, last - first) == (0, 1, 3)
    [found] = read_at(conf.kafka, TOPIC, [(0, first + 2)]).values()
    assert found.value == b"2"
