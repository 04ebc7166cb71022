"""How many events a second the workers score, from the moment when the events are there: see bench/course.py.

Run it with `python -m bench.stream --events 300000`; it starts a Kafka and a Redis of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from subprocess import Popen

from bench import course
from bench.course import Result
from bench.events import payments
from bench.load import simulated
from bench.prepare import prepared
from riskflow.settings import PROJECT, settings

STOP_S = 30.0
WARM = 10_000


@contextmanager
def workers(usecase: str, count: int = 1) -> Iterator[list[int]]:
    """Workers as a user runs them, ended with the block; one that leaves while partitions move is started again."""
    command = [sys.executable, "-m", "cli.main", "worker", usecase, "--slot"]
    with (settings().home / "worker.log").open("ab") as log:
        started = [Popen([*command, str(slot)], cwd=PROJECT, stdout=log, stderr=log) for slot in range(count)]
        try:
            yield [worker.pid for worker in started]
        finally:
            for worker in started:
                worker.terminate()
            for worker in started:
                worker.wait(STOP_S)


def measure(usecase: str, events: int, customers: int, terminals: int, partitions: int, count: int) -> Result:
    """Starts everything, runs the course once."""
    with prepared(usecase, partitions) as names:
        made = simulated if usecase == "card_fraud" else payments
        table = made(events, customers, terminals)
        topics = names.feed("events"), names.scores
        found, _ = course.run(
            settings().kafka,
            topics,
            table,
            lambda: workers(usecase, count),
            warm=min(WARM, events // 10),
            timeout_s=300,
        )
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--terminals", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--usecase", default="card_fraud", help="one of the project's, or peers_job")
    args = parser.parse_args()
    found = measure(args.usecase, args.events, args.customers, args.terminals, args.partitions, args.workers)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
