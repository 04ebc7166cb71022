"""What is sent to a worker that is measured: payments of a simulated world, as a producer would send them.

Their times are those of the last weeks, however fast they are sent: thousands of payments of each customer within one
second would all look like fraud, and a worker that explains every decision is not what is to be measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import msgspec
import polars as pl

from batch.produce import Outgoing
from batch.simulate import simulate

DAY_MS = 86_400_000
PAYMENTS_A_DAY = 1.8  # of a customer, a little less than the simulated ones make
SEED = 7


def simulated(count: int, customers: int, terminals: int) -> pl.DataFrame:
    """`count` payments in the order of their times, as columns of a message."""
    days = int(count / (PAYMENTS_A_DAY * customers)) + 2
    begin_ms = int(time.time() * 1000) - (days + 1) * DAY_MS
    events = simulate(SEED, begin_ms, days=days, customers=customers, terminals=terminals).events
    if len(events) < count:
        raise ValueError(f"{len(events)} payments in {days} days of {customers} customers, {count} were asked for")
    return events.head(count).rename({"occurred_at_ms": "occurred_at"})


def payments(topic: str, count: int, customers: int, terminals: int) -> Iterator[Outgoing]:
    """They as messages, due at once; the key is the event's id, as that of its score."""
    for row in simulated(count, customers, terminals).iter_rows(named=True):
        yield Outgoing(topic, row["event_id"].encode(), msgspec.json.encode(row), None)


def paced(messages: Iterator[Outgoing], rate: int, seconds: float) -> list[Outgoing]:
    """The next `rate * seconds` of them, at a steady rate."""
    return [m._replace(due_s=i / rate) for i, m in enumerate(islice(messages, int(rate * seconds)))]
