"""How fast the archive keeps up: records a second of each topic, after a worker has scored a backlog.

    .venv/bin/python -m bench.archive [--events 200000] [--small] [--json]

It starts a Kafka and a Redis of its own. --small: events come at 2,000 a second, so that blocks are as small as in
quiet hours, instead of all at once.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from typing import Any

from batch.archive import archive
from batch.produce import send
from bench.clock import Output
from bench.load import paced, payments
from bench.prepare import plan_of, prepared
from bench.stream import workers
from riskflow.names import Names
from riskflow.settings import settings

CUSTOMERS, TERMINALS = 5_000, 10_000
SMALL_RATE = 2_000
SCORED_S = 600.0


def measure(events: int, small: bool) -> list[dict[str, Any]]:
    """A line for each topic that holds something."""
    with prepared("card_fraud", partitions=8) as names:
        _scored(names, events, small)
        out = []
        for topic in (names.feed("events"), names.scores, names.rows):
            began, cpu = time.perf_counter(), time.process_time()
            found = archive(plan_of("card_fraud"), settings(), [topic]).topics[topic]
            took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
            out.append({
                "topic": topic, "messages": found.messages, "rows": found.rows, "seconds": round(took_s, 2),
                "rows_per_s": round(found.rows / took_s), "cpu_us_a_row": round(1e6 * cpu_s / max(1, found.rows), 2),
            })  # fmt: skip
        return out


def _scored(names: Names, events: int, small: bool) -> None:
    """Every event has its score."""
    messages = payments(names.feed("events"), events, CUSTOMERS, TERMINALS)
    with Output(settings().kafka, names.scores) as output, workers(names.usecase):
        send(paced(messages, SMALL_RATE, events / SMALL_RATE) if small else islice(messages, events), settings().kafka)
        output.settled(events, SCORED_S, lambda: True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args.events, args.small)
    if args.json:
        print(json.dumps(found))
        return
    for line in found:
        print(
            f"{line['topic']:<24}{line['messages']:>9,} messages {line['rows']:>9,} rows {line['seconds']:>7.2f} s "
            f"{line['rows_per_s']:>9,} rows/s {line['cpu_us_a_row']:>7.2f} us of CPU a row"
        )


if __name__ == "__main__":
    main()
