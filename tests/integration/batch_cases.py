"""A small world through a real worker, for the tests of archive, labels, parity and rebuild."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from batch import topics as batch_topics
from batch.generations import Generations, present_generation
from batch.produce import Outgoing, send
from batch.topics import Cluster, stages
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import settings
from stream import supervise
from tests import support
from tests.chaos.world import Message, Pacer, World

ANSWER_S = 150.0
PER_S = 200.0


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Topics and keys of a module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RISKFLOW_TOPIC_PREFIX", prefix)
        settings.cache_clear()
        yield
    settings.cache_clear()


def prepared(partitions: int) -> Plan:
    """Topics, heads and a champion."""
    from riskflow.warmup import warm_up

    plan = support.plan_of()
    warm_up(plan)
    batch_topics.make(plan, settings(), partitions)
    support.publish_small(plan)
    return plan


def produce(messages: list[Message]) -> None:
    names = Names("card_fraud", prefix=settings().topic_prefix)
    send((Outgoing(names.feed(m.feed), m.id.encode(), m.value, None) for m in messages), settings().kafka)


def label_without_ids(name: str, event: str, at_ms: int) -> Message:
    value = {"label_id": name, "event_id": event, "is_fraud": True, "labelled_at": at_ms, "source": "call"}
    return Message("labels", json.dumps(value).encode(), name, "row")


@contextmanager
def worker(log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in slot 0; its log is printed when the test fails."""
    with log.open("ab") as file:
        process = supervise.start("card_fraud", 0, stderr=file, **environment)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(20)
            forget_member()
            print(log.read_text()[-3000:])


def forget_member() -> None:
    """Kafka would keep the stopped worker's place for 10 s, and rebuild and park wait for that."""
    from kafka.admin import MemberToRemove
    from kafka.errors import KafkaError

    names = names_now(support.plan_of())
    with Cluster(settings().kafka) as cluster, suppress(KafkaError):
        cluster.admin.remove_group_members(names.group, [MemberToRemove(group_instance_id=f"{names.group}-0")])


def wait_until(what: Callable[[], bool], seconds: float = ANSWER_S) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.1)


def killed_while_messages_come(plan: Plan, world: World, log: Path, point: str) -> None:
    """Sends a world at a steady rate and ends the worker at a named point, with rows between its stages."""
    names = names_now(plan)
    with Cluster(settings().kafka) as cluster:
        partitions = cluster.topics()[names.scores][1]

        def scores() -> int:
            return sum(end for _, end in cluster.log_ranges({names.scores: partitions}).values())

        before = scores()
        produce(world.messages[:100])
        pacer = Pacer(World(world.messages[100:]), settings().kafka, settings().topic_prefix, plan.name, PER_S)
        with worker(log, RISKFLOW_KILL_AT=point) as process:
            wait_until(lambda: scores() > before)
            pacer.start()
            process.wait(ANSWER_S)
        pacer.join()
        assert pacer.error is None
    assert process.returncode == -signal.SIGKILL


def names_now(plan: Plan) -> Names:
    bare = support.names_of(plan)
    generations = Generations(plan, bare, settings().lake_folder)
    return generations.at(present_generation(support.store(), generations))


def at_rest(plan: Plan) -> bool:
    """Every stage has applied all of its log."""
    return not behind(plan)


def behind(plan: Plan) -> list[tuple[str, int, int]]:
    """(stage, partition, position) of every head that is not at its log's end."""
    names, store = names_now(plan), support.store()
    with Cluster(settings().kafka) as cluster:
        there = cluster.topics()
        ranges = cluster.log_ranges({t: there[t][1] for _, t, _ in stages(plan, names)})
    heads = [(s, p, ranges[t, p][1]) for s, t, _ in stages(plan, names) for p in range(there[t][1])]
    found = [(s, p, int(store.hget(names.head(s, p), "position") or -1), end) for s, p, end in heads]
    return [(s, p, position) for s, p, position, end in found if position != end]


def run_until_done(plan: Plan, log: Path) -> None:
    with worker(log):
        wait_until(lambda: at_rest(plan))


def records(plan: Plan, names: Names) -> dict[str, dict[bytes, bytes]]:
    """Every record of a generation, whatever its partition."""
    store = support.store()
    out: dict[str, dict[bytes, bytes]] = {}
    for stage in plan.entities:
        out[stage] = {}
        for p in range(64):
            out[stage].update(store.hgetall(names.records(stage, p)))
    return out


def row_ids(plan: Plan) -> list[str]:
    """Ids of all effective rows of all generations, events and labels."""
    from batch import lake

    rows = lake.read_rows(plan, support.names_of(plan), settings().lake_folder)
    ids: Any = lake.as_columns(plan, rows)["_id"]
    return sorted(ids.strings())


def expected_ids(*worlds: World) -> list[str]:
    return sorted(i for w in worlds for i in w.ids("score") | w.ids("row"))


def renamed(world: World, prefix: str) -> World:
    """The same world with other ids, so that two worlds follow each other without duplicates."""
    out = World()
    for m in world.messages:
        value = m.value.replace(b'"e', b'"' + prefix.encode() + b"e").replace(b'"l', b'"' + prefix.encode() + b"l")
        value = value.replace(f'"{prefix}event_id"'.encode(), b'"event_id"').replace(
            f'"{prefix}label'.encode(), b'"label'
        )
        out.messages.append(Message(m.feed, value, prefix + m.id, m.expect))
    return out
