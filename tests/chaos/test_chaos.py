"""Nothing is lost or counted twice, whatever is killed, frozen or moved while events flow; and the judge is not blind.

Longer runs: `riskflow chaos` and `make chaos`. RISKFLOW_CHAOS_SEED gives these tests another seed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaProducer

from chaos.platform import platform
from chaos.run import Options, Run, run
from chaos.verdict import Judge, Verdict
from riskflow.settings import settings
from riskflow.warmup import warm_up
from tests import support

SEED = int(os.environ.get("RISKFLOW_CHAOS_SEED", "1"))

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


def test_every_event_has_one_score_whatever_is_killed_frozen_or_moved() -> None:
    faults = {"zombies": 1, "swaps": 1}  # a zombie moves all partitions there and back
    found = run(Options(events=6_000, kills=6, seed=SEED, per_s=1_000, faults=faults), print)
    print(json.dumps(found))
    assert found["clean"], {k: found[k] for k in ("wrong", "examples", "stuck", "kills_counted")}
    assert found["events"] == found["scored"] >= 6_000
    assert found["kills_counted"] >= 6
    assert found["faults"] == faults
    assert found["counts"]["copies_without_effect"] > 0
    assert found["counts"]["copies_beyond_the_last_32"] > 0
    assert found["counts"]["bundles_used"] >= 2


class Finished:
    """A small run that is over, with everything it has written still there."""

    def __init__(self, made: Run) -> None:
        self.made = made
        self.found = made.run()
        self.store = made.place.store()

    def judge(self) -> Verdict:
        judge = Judge(self.made.plan, settings(), self.made.publisher, self.store)
        return judge.judge(self.made.pacer.sent, 0, [])

    def last(self, topic: str) -> tuple[int, Any]:
        judge = Judge(self.made.plan, settings(), self.made.publisher, self.store)
        return list(judge.logs.records(topic))[-1]

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Any) -> None:
        producer = KafkaProducer(bootstrap_servers=settings().kafka)
        producer.send(topic, key=key, value=value, headers=list(headers), partition=partition).get(30)
        producer.close()


@pytest.fixture(scope="module")
def finished() -> Iterator[Finished]:
    plan = support.plan_of()
    warm_up(plan)
    with platform(print) as place:
        yield Finished(Run(plan, Options(events=1_500, kills=0, seed=SEED), place, print))


def test_a_run_without_faults_is_clean(finished: Finished) -> None:
    assert finished.found["clean"], finished.found
    assert finished.judge().clean


def _another_score(run: Finished) -> None:
    partition, record = run.last(run.made.names.scores)
    said = json.loads(record.value) | {"score": 0.123456}
    run.send(run.made.names.scores, partition, record.key, json.dumps(said).encode(), record.headers)


def _score_of_nothing(run: Finished) -> None:
    partition, record = run.last(run.made.names.scores)
    said = json.loads(record.value)
    rejected = next(r.key for _, r in _rejected(run) if r.key.startswith(b"events:"))
    said["positions"]["events"] = "/".join([*rejected.decode().split(":")[1:], "0"])
    run.send(run.made.names.scores, partition, record.key, json.dumps(said).encode(), record.headers)


def _rejected(run: Finished) -> list[Any]:
    judge = Judge(run.made.plan, settings(), run.made.publisher, run.store)
    return list(judge.logs.records(run.made.names.rejected))


def _rejected_without_reason(run: Finished) -> None:
    _, record = run.last(run.made.names.scores)
    place = json.loads(record.value)["positions"]["events"].rpartition("/")[0].replace("/", ":")
    run.send(run.made.names.rejected, 0, f"events:{place}".encode(), b"", [("error-type", b"made up")])


def _changed_record(run: Finished) -> None:
    entity = run.made.plan.entities[0]
    key = next(
        k for p in range(run.made.options.partitions) if run.store.exists(k := run.made.names.records(entity, p))
    )
    name = run.store.hkeys(key)[0]
    value = bytearray(run.store.hget(key, name))
    value[-1] ^= 1
    run.store.hset(key, name, bytes(value))


def _lost_record(run: Finished) -> None:
    entity = run.made.plan.entities[-1]
    key = next(
        k for p in range(run.made.options.partitions) if run.store.exists(k := run.made.names.records(entity, p))
    )
    run.store.hdel(key, run.store.hkeys(key)[0])


def _row_again_with_another_feature(run: Finished) -> None:
    """As a worker that took one event twice would send it."""
    from riskflow.wire import decode, encode

    partition, record = run.last(run.made.names.rows)
    columns, meta = decode(record.value)
    columns["customer_activity_events_count_1h"] = columns["customer_activity_events_count_1h"] + 1.0
    run.send(run.made.names.rows, partition, None, encode(columns, meta), [])


def _row_again_in_a_higher_epoch(run: Finished) -> None:
    """The same, and readers would take it for the effective one."""
    from riskflow.wire import decode, encode

    partition, record = run.last(run.made.names.rows)
    columns, meta = decode(record.value)
    columns["amount"] = columns["amount"] + 1.0
    run.send(run.made.names.rows, partition, None, encode(columns, meta | {"epoch": meta["epoch"] + 1}), [])


def _event_never_scored(run: Finished) -> None:
    event = {"event_id": "late", "occurred_at": 1_700_000_000_000, "customer_id": "c1", "terminal_id": 1, "amount": 1.0}
    run.send(run.made.names.feed("events"), 0, b"e99999", json.dumps(event).encode(), [])


def _bundle_of_nobody(run: Finished) -> None:
    partition, record = run.last(run.made.names.scores)
    said = json.loads(record.value) | {"bundle": 77}
    headers = [(k, str(int(v) + 1).encode() if k == "epoch" else v) for k, v in record.headers]
    run.send(run.made.names.scores, partition, record.key, json.dumps(said).encode(), headers)


@pytest.mark.parametrize(
    ("spoil", "noticed"),
    [
        (_another_score, "scores_sent_differently"),
        (_score_of_nothing, "extra"),
        (_rejected_without_reason, "rejected_extra"),
        (_changed_record, "differing_records"),
        (_lost_record, "differing_records"),
        (_row_again_with_another_feature, "rows_sent_differently"),
        (_row_again_in_a_higher_epoch, "differing_features"),
        (_event_never_scored, "not_on_the_log"),
        (_bundle_of_nobody, "scores_of_unknown_bundles"),
    ],
)
def test_the_judge_notices(finished: Finished, spoil: Callable[[Finished], None], noticed: str) -> None:
    before = finished.judge().wrong
    spoil(finished)
    after = finished.judge().wrong
    assert after[noticed] > before[noticed]
