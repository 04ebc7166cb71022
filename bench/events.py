"""Events to measure with: card payments of one month, the same ones for the same numbers, and how they get to Kafka."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np
import polars as pl
from kafka import KafkaProducer

START_MS = 1_700_000_000_000
DAYS = 30
PAYMENTS_OF_A_CUSTOMER, PAYMENTS_AT_A_TERMINAL = 60, 30  # in that month
TRANSACTION_MS = 600_000


def payments(
    events: int,
    customers: int = 0,
    terminals: int = 0,
    more_ids: Sequence[str] = (),
    *,
    seed: int = 7,
    start_ms: int = START_MS,
    prefix: str = "e",
) -> pl.DataFrame:
    """A table in order of time, with one more column of ids for each name in `more_ids`.

    By default there are as many customers and terminals as give each its usual number of payments.
    """
    rng = np.random.default_rng(seed)
    customers = customers or max(1, events // PAYMENTS_OF_A_CUSTOMER)
    terminals = terminals or max(1, events // PAYMENTS_AT_A_TERMINAL)
    columns = {
        "event_id": [f"{prefix}{i}" for i in range(events)],
        "occurred_at": start_ms + np.sort(rng.integers(0, DAYS * 86_400_000, events)),
        "customer_id": [f"c{i}" for i in rng.integers(0, customers, events)],
        "terminal_id": [f"t{i}" for i in rng.integers(0, terminals, events)],
        "amount": np.round(rng.gamma(1.0, 50.0, events), 2),
        "channel": ["chip"] * events,
    }
    ids = {name: [f"{name}{i}" for i in rng.integers(0, terminals, events)] for name in more_ids}
    return pl.DataFrame({**columns, **ids})


class Backlog:
    """Events on a topic, keyed by customer; those that are held back readers see only when they are released, at once.

    What is held back is written in one transaction: whoever reads committed messages only waits for its end.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        common = {"bootstrap_servers": bootstrap, "linger_ms": 50, "batch_size": 512 * 1024}
        self._plain = KafkaProducer(**common)
        held = {"transactional_id": f"bench-{topic}", "transaction_timeout_ms": TRANSACTION_MS}
        self._held = KafkaProducer(**common, **held)
        self._held.init_transactions()

    def __enter__(self) -> Backlog:
        return self

    def __exit__(self, *_: object) -> None:
        self._plain.close()
        self._held.close()

    def put(self, table: pl.DataFrame) -> None:
        """Writes rows that readers see; all of them are with the broker when this returns."""
        self._send(self._plain, table)

    def hold(self, table: pl.DataFrame) -> None:
        """Writes rows that readers do not see yet."""
        self._held.begin_transaction()
        self._send(self._held, table)

    def release(self) -> float:
        """Lets readers see them; returns the moment before, in ms."""
        at_ms = time.time() * 1000
        self._held.commit_transaction()
        return at_ms

    def _send(self, producer: KafkaProducer, table: pl.DataFrame) -> None:
        encode = msgspec.json.Encoder().encode
        for row in table.iter_rows(named=True):
            producer.send(self._topic, encode(row), key=row["customer_id"].encode())
        producer.flush()
