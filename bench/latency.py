"""From an event's arrival at the broker to its score's, at steady rates, beside a bare echo on the same broker.

    .venv/bin/python -m bench.latency [--rates 100 1000 5000] [--seconds 20]

Open loop: the moment an event is due depends on the rate alone, so nothing is hidden when the worker falls behind.
Both moments are the broker's timestamps (LogAppendTime): one clock, and neither the sender nor the reader is measured.
The echo reads a topic and writes each message to another one, as many times as an event hops: what the way costs with
no work, no state and no promise at all. It gets the same messages at the same rate, when the worker has nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import aiokafka
import numpy as np
import psutil
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from batch.produce import Outgoing, send
from batch.topics import BROKER_TIME
from bench.load import paced, payments
from bench.prepare import prepared
from cli.common import load_plan
from riskflow.plan import Plan
from riskflow.settings import settings
from stream import supervise

WARM_S, DRAIN_S = 5.0, 20.0
FIRST = 400  # payments that are not measured: what they need is compiled and connected
CUSTOMERS, TERMINALS = 5_000, 10_000


def echoes(plan: Plan) -> list[str]:
    """The topics of the echo, from where it begins: an event hops to each entity and then to its score."""
    return [f"bench.echo.{hop}" for hop in range(2 + len(plan.entities))]


def echo(bootstrap: str, topics: list[str]) -> None:
    """Bare aiokafka loops, one for each hop: what is fetched is sent on to the next topic, message by message."""
    asyncio.run(_echo(bootstrap, topics))


async def _echo(bootstrap: str, topics: list[str]) -> None:
    await asyncio.gather(*(_hop(bootstrap, source, target) for source, target in pairwise(topics)))


async def _hop(bootstrap: str, source: str, target: str) -> None:
    consumer = aiokafka.AIOKafkaConsumer(source, bootstrap_servers=bootstrap, auto_offset_reset="latest")
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    async with consumer, producer:
        while True:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                sent = [await producer.send(target, r.value, r.key) for r in records]
                await asyncio.gather(*sent)


def stamps(bootstrap: str, topic: str, wanted: set[bytes], timeout_s: float) -> dict[bytes, int]:
    """Broker timestamp of each message with one of these keys."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(tps)
    consumer.seek_to_beginning(*tps)
    found: dict[bytes, int] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < len(wanted) and time.monotonic() < deadline:
        for records in consumer.poll(500, max_records=50_000).values():
            found |= {r.key: r.timestamp for r in records if r.key in wanted}
    consumer.close()
    return found


def hops(bootstrap: str, names: Any, plan: Plan, wanted: set[bytes]) -> dict[str, float]:
    """Median time of each hop in ms, by the positions that stand in each score."""
    topics = {plan.scored.name: names.feed(plan.scored.name)} | {e: names.by(e) for e in plan.entities}
    at = {stage: broker_times(bootstrap, topic) for stage, topic in topics.items()}
    took: dict[str, list[int]] = {stage: [] for stage in topics}
    for record in everything(bootstrap, names.scores):
        if record.key not in wanted:
            continue
        positions = json.loads(record.value)["positions"]
        times = [at[s][tuple(int(x) for x in positions[s].split("/")[:2])] for s in topics] + [record.timestamp]
        for stage, begun, ended in zip(topics, times, times[1:], strict=False):
            took[stage].append(ended - begun)
    return {stage: float(np.median(values)) for stage, values in took.items()}


def broker_times(bootstrap: str, topic: str) -> dict[Any, int]:
    """(partition, offset) -> broker timestamp."""
    return {(r.partition, r.offset): r.timestamp for r in everything(bootstrap, topic)}


def everything(bootstrap: str, topic: str) -> Iterator[Any]:
    """All messages of a topic as it is now."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    left = sum(consumer.end_offsets(tps).values())
    consumer.assign(tps)
    consumer.seek_to_beginning(*tps)
    while left > 0:
        for records in consumer.poll(500, max_records=50_000).values():
            left -= len(records)
            yield from records
    consumer.close()


def compared(came: dict[bytes, int], left: dict[bytes, int]) -> dict[str, float]:
    """Percentiles of the time between, in ms; an answer that never came counts as missing."""
    took = np.array([left[k] - at for k, at in came.items() if k in left] or [np.nan])
    shares = {f"p{q}_ms": float(np.percentile(took, q)) for q in (50, 95, 99)}
    return {**shares, "max_ms": float(took.max()), "missing": len(came) - len(set(came) & set(left))}


def at_rate(
    bootstrap: str, names: Any, worker: psutil.Process, messages: Iterator[Outgoing], rate: int, seconds: float
) -> dict[str, Any]:
    """One rate: a short warm-up that is not measured, then the measured span."""
    send(paced(messages, rate, WARM_S), bootstrap)
    measured = paced(messages, rate, seconds)
    keys = {m.key for m in measured if m.key}
    before = worker.cpu_times()
    done = send(measured, bootstrap)
    came = stamps(bootstrap, names.feed("events"), keys, DRAIN_S)
    left = stamps(bootstrap, names.scores, keys, DRAIN_S)
    after = worker.cpu_times()
    begin, *_, end = echoes(load_plan(names.usecase))
    send([m._replace(topic=begin) for m in measured], bootstrap)
    sounded = stamps(bootstrap, begin, keys, DRAIN_S)
    echoed = stamps(bootstrap, end, keys, DRAIN_S)
    used = (after.user + after.system - before.user - before.system) * 1e6 / len(came)
    return {
        "rate": rate, "sent_per_s": round(done.messages / done.seconds), "worker_cpu_us_per_event": round(used, 1),
        "score": compared(came, left), "echo": compared(sounded, echoed),
        "hops_p50_ms": hops(bootstrap, names, load_plan(names.usecase), keys),
    }  # fmt: skip


def measure(usecase: str, rates: list[int], seconds: float, partitions: int) -> list[dict[str, Any]]:
    """Starts services, worker and echo, and measures one rate after another."""
    with prepared(usecase, partitions) as names:
        conf = settings()
        admin = KafkaAdminClient(bootstrap_servers=conf.kafka)
        through = echoes(load_plan(usecase))
        admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=BROKER_TIME) for topic in through])
        admin.close()
        echoing = multiprocessing.Process(target=echo, args=(conf.kafka, through), daemon=True)
        with (conf.home / "worker.log").open("ab") as log:
            worker = supervise.start(usecase, 0, stderr=log)
        try:
            echoing.start()
            total = FIRST + sum(int(rate * WARM_S) + int(rate * seconds) for rate in rates)
            messages = payments(names.feed("events"), total, CUSTOMERS, TERMINALS)
            first = paced(messages, 200, FIRST / 200)
            send(first, conf.kafka)
            stamps(conf.kafka, names.scores, {m.key for m in first if m.key}, 60)
            of = psutil.Process(worker.pid)
            return [at_rate(conf.kafka, names, of, messages, rate, seconds) for rate in rates]
        finally:
            echoing.terminate()
            worker.terminate()
            worker.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--usecase", default="card_fraud")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for row in measure(args.usecase, args.rates, args.seconds, args.partitions):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
