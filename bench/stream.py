"""How many events a second one worker scores: a topic filled beforehand, clocked by the broker's timestamps of scores.

Run it with `python -m bench.stream --events 300000`; it starts a Kafka and a Redis of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import psutil
from kafka import KafkaConsumer, TopicPartition

from batch.produce import send
from bench.load import payments
from bench.prepare import prepared
from riskflow.settings import settings
from stream import supervise


def clock(bootstrap: str, topic: str, events: int, timeout_s: float) -> dict[str, Any]:
    """Waits for all scores; events/s between the broker's timestamps of the first and the last score."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(tps)
    consumer.seek_to_beginning(*tps)
    stamps: list[int] = []
    deadline = time.monotonic() + timeout_s
    while len(stamps) < events and time.monotonic() < deadline:
        for records in consumer.poll(500, max_records=50_000).values():
            stamps += [r.timestamp for r in records]
    consumer.close()
    times = np.sort(np.array(stamps))
    half = len(times) // 2
    return {
        "scores": len(times),
        "events_per_s": round(len(times) / max(1e-3, (times[-1] - times[0]) / 1000)),
        "second_half_per_s": round((len(times) - half) / max(1e-3, (times[-1] - times[half]) / 1000)),
    }


def measure(usecase: str, events: int, customers: int, terminals: int, partitions: int) -> dict[str, Any]:
    """Fills the topic, starts one worker, waits for every score."""
    with prepared(usecase, partitions) as names:
        conf = settings()
        send(payments(names.feed("events"), events, customers, terminals), conf.kafka)
        with (conf.home / "worker.log").open("ab") as log:
            worker = supervise.start(usecase, 0, stderr=log)
        try:
            result = clock(conf.kafka, names.scores, events, timeout_s=300)
            used = psutil.Process(worker.pid).cpu_times()
            result["worker_cpu_us_per_event"] = round((used.user + used.system) * 1e6 / events, 1)
        finally:
            worker.terminate()
            worker.wait(30)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--terminals", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--usecase", default="card_fraud")
    args = parser.parse_args()
    print(json.dumps(measure(args.usecase, args.events, args.customers, args.terminals, args.partitions)))


if __name__ == "__main__":
    main()
