"""The judge of the chaos suite is not blind: what a clean run wrote is spoiled by hand, and each mistake is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

from chaos.platform import platform
from chaos.run import Options, Run
from chaos.verdict import Judge
from riskflow.columns import n_rows
from riskflow.settings import settings
from riskflow.warmup import warm_up
from riskflow.wire import decode, encode
from tests import support

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


class Finished:
    """A small run that is over, with everything it has written still there."""

    def __init__(self, made: Run) -> None:
        self.made, self.names = made, made.names
        self.found = made.run()
        self.store = made.place.store()
        logs = self.judge_now().logs
        self.scores = [(p, r, json.loads(r.value)) for p, r in logs.records(self.names.scores)]
        blocks = [(p, r, *decode(r.value)) for p, r in logs.records(self.names.rows)]
        # Labels have no score that could be another one, and a pass may hold nothing else.
        self.rows = [block for block in blocks if not np.asarray(block[2]["_kind"]).any()]
        self.rejected = [r for _, r in logs.records(self.names.rejected) if r.key.startswith(b"events:")]

    def judge_now(self) -> Judge:
        return Judge(self.made.plan, settings(), self.made.publisher, self.store)

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Any = ()) -> None:
        producer = KafkaProducer(bootstrap_servers=settings().kafka)
        producer.send(topic, key=key, value=value, headers=list(headers), partition=partition).get(30)
        producer.close()

    def say_again(self, number: int, epochs: int = 0, **changes: Any) -> None:
        """Another score of an event that has one."""
        partition, record, said = self.scores[number]
        headers = [(k, str(int(v) + epochs).encode() if k == "epoch" else v) for k, v in record.headers]
        self.send(self.names.scores, partition, record.key, json.dumps(said | changes).encode(), headers)

    def send_row_again(self, number: int, epochs: int, name: str) -> None:
        """A block again, with other values of one column: as a worker that took events twice would send it."""
        partition, _, columns, meta = self.rows[number]
        changed = {**columns, name: columns[name] + 1.0}
        self.send(self.names.rows, partition, None, encode(changed, meta | {"epoch": meta["epoch"] + epochs}))

    def record(self, entity: str) -> tuple[str, bytes]:
        """The key and field of one record in Redis."""
        keys = [self.names.records(entity, p) for p in range(self.made.options.partitions)]
        key = next(k for k in keys if self.store.exists(k))
        return key, sorted(self.store.hkeys(key))[0]


@pytest.fixture(scope="module")
def finished() -> Iterator[Finished]:
    plan = support.plan_of()
    warm_up(plan)
    with platform(print) as place:
        yield Finished(Run(plan, Options(events=1_500, kills=0, seed=1), place, print))


def test_a_run_without_faults_is_clean(finished: Finished) -> None:
    assert finished.found["clean"], finished.found


def test_the_judge_notices_whatever_is_wrong(finished: Finished) -> None:
    """Each mistake is made once, by hand; the counts say that each was seen, and nothing else."""
    run, entities = finished, finished.made.plan.entities
    run.say_again(0, score=0.123456)
    run.say_again(1, epochs=1, bundle=77)
    run.say_again(2, positions={"events": "/".join([*run.rejected[0].key.decode().split(":")[1:], "0"])})
    run.say_again(3, epochs=1, event_id="somebody else's")
    scored = run.scores[4][2]["positions"]["events"].rpartition("/")[0].replace("/", ":")
    run.send(run.names.rejected, 0, f"events:{scored}".encode(), b"", [("error-type", b"made up")])
    run.send(run.names.rejected, 0, run.rejected[0].key, b"", [("error-type", b"another reason")])
    run.send_row_again(0, 0, "customer_activity_events_count_1h")
    run.send_row_again(1, 1, "terminal_activity_events_count_1h")
    run.send_row_again(2, 1, "_score")
    run.send(run.names.feed("events"), 0, b"e999999", b'{"event_id": "never scored"}')
    key, field = run.record(entities[0])
    run.store.hset(key, field, run.store.hget(key, field) + b"\0")
    run.store.hdel(*run.record(entities[1]))
    rows = [n_rows(run.rows[number][2]) for number in range(3)]
    events = int((np.asarray(run.rows[2][2]["_kind"]) == 0).sum())
    assert {k: v for k, v in run.judge_now().judge(run.made.pacer.sent, 0, []).wrong.items() if v} == {
        "not_on_the_feeds": -1,
        "not_on_the_log": 1,
        "missing": 1,
        "rows_missing": 1,
        "scores_sent_differently": 3,
        "scores_of_unknown_bundles": 1,
        "extra": 1,
        "scores_of_another_id": 2,
        "rejected_extra": 1,
        "rejected_differently": 1,
        "rows_sent_differently": sum(rows),
        "differing_features": rows[1],
        "scores_not_of_their_bundle": events,
        "differing_records": 2,
    }
