"""What one event costs in bytes and CPU: on each topic, to and from Redis, of worker, Redis and broker.

    .venv/bin/python -m bench.bytes --events 100000

The events wait and are worked off at full speed, so this is the least: with smaller batches Redis' share grows.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import redis

from bench import course
from bench.load import simulated
from bench.prepare import prepared
from bench.stream import WARM, workers
from riskflow.names import Names
from riskflow.settings import settings

USECASE, CUSTOMERS, TERMINALS, PARTITIONS = "card_fraud", 5_000, 10_000, 8


def measure(events: int) -> dict[str, Any]:
    """One run of bench.stream's course; everything is for one event."""
    with prepared(USECASE, PARTITIONS) as names:
        store = redis.Redis.from_url(settings().redis_url)
        processes = {"redis": psutil.Process(store.info("server")["process_id"]), "broker": _broker(settings().home)}
        before, cpu_before = store.info("stats"), {who: _cpu_s(p) for who, p in processes.items()}
        topics = names.feed("events"), names.scores
        table = simulated(events, CUSTOMERS, TERMINALS)
        found, _ = course.run(
            settings().kafka, topics, table, partial(workers, USECASE), warm=min(WARM, events // 10), timeout_s=300
        )
        after = store.info("stats")
        cpu_us = {who: round((_cpu_s(p) - cpu_before[who]) * 1e6 / events, 1) for who, p in processes.items()}
        moved = {way: after[key] - before[key] for way, key in
                 {"in": "total_net_input_bytes", "out": "total_net_output_bytes"}.items()}  # fmt: skip
        return {
            "cpu_us": {"worker": found.cpu_us, **cpu_us},
            "redis_bytes": {way: round(n / events, 1) for way, n in moved.items()},
            "topic_bytes": {t: round(n / events, 1) for t, n in _logs(settings().home, names).items()},
            "record_bytes": {e: _record_bytes(store, names, e) for e in ("customer_id", "terminal_id")},
        }


def _broker(home: Path) -> psutil.Process:
    """The broker whose files stand in this folder."""
    found = (p for p in psutil.process_iter(["cmdline"]) if "kafka.Kafka" in (p.info["cmdline"] or []))
    return next(p for p in found if str(home) in " ".join(p.info["cmdline"]))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _logs(home: Path, names: Names) -> dict[str, int]:
    """Bytes in the logs of the use case's topics."""
    sizes: dict[str, int] = {}
    for file in sorted((home / "kafka" / "data").glob(f"{names.usecase}.*/*.log")):
        topic = file.parent.name.rpartition("-")[0]
        sizes[topic] = sizes.get(topic, 0) + file.stat().st_size
    return sizes


def _record_bytes(store: Any, names: Names, entity: str) -> float:
    """Redis' memory for one record, with its share of the hash."""
    keys = [names.records(entity, p) for p in range(PARTITIONS)]
    return round(sum(store.memory_usage(k, samples=0) or 0 for k in keys) / max(1, sum(map(store.hlen, keys))), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    print(json.dumps(measure(parser.parse_args().events)))


if __name__ == "__main__":
    main()
