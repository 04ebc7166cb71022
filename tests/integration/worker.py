"""A real worker under test, with topics, keys and a champion of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from batch import topics as batch_topics
from riskflow.settings import settings
from riskflow.warmup import warm_up
from stream import supervise
from tests import support
from tests.chaos.observer import Topics, wait_until


class Bench:
    """One use case on real services: send messages, wait for outcomes, stop and start the worker."""

    def __init__(self, log: Path, usecase: str = "card_fraud", partitions: int = 2) -> None:
        self.plan = support.plan_of(usecase)
        warm_up(self.plan)
        self.conf = settings()
        self.log = log
        self.partitions = partitions
        batch_topics.make(self.plan, self.conf, partitions)
        self.names = support.names_of(self.plan)
        self.topics = Topics(self.conf.kafka, self.names)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        with self.log.open("ab") as file:
            self.process = supervise.start(self.plan.name, 0, stderr=file, **environment)

    def ended(self, timeout_s: float = 60) -> int:
        """Waits for the worker to end by itself; its exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Ends the worker; the seconds it took."""
        assert self.process is not None
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(30)
        return time.monotonic() - started

    def said(self) -> str:
        return self.log.read_text()

    def send(self, feed: str, *values: bytes | None, compression: str | None = None) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.conf.kafka, compression_type=compression, max_request_size=4 * 1024 * 1024
        )
        try:
            for future in [producer.send(self.names.feed(feed), value=v, key=b"any") for v in values]:
                future.get(30)
        finally:
            producer.close()

    def scores(self) -> dict[str, dict[str, Any]]:
        return {r.key.decode(): json.loads(r.value) for r in self.topics.read(self.names.scores)}

    def rejected(self) -> list[tuple[str, str, Any]]:
        """(type, detail, record) of everything rejected."""
        found = []
        for record in self.topics.read(self.names.rejected):
            headers = {k: v.decode() for k, v in record.headers}
            found.append((headers["error-type"], headers["error-detail"], record))
        return found

    def wait_scored(self, ids: set[str], timeout_s: float = 60) -> dict[str, dict[str, Any]]:
        wait_until(lambda: ids <= set(self.scores()), timeout_s, f"scoring {sorted(ids)[:5]}...")
        return self.scores()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.topics.close()


def event(name: str, **changes: Any) -> bytes:
    """A good event, with changes; a change to None leaves the field out."""
    values = {
        "event_id": name, "occurred_at": int(time.time() * 1000) - 1000, "customer_id": "c1", "terminal_id": 7,
        "amount": 12.5, "channel": "chip",
    }  # fmt: skip
    values |= changes
    return json.dumps({k: v for k, v in values.items() if v is not None}).encode()


@contextmanager
def bench(prefix: str, log: Path, monkeypatch: Any, **options: Any) -> Iterator[Bench]:
    """A bench whose topics and keys carry a prefix of their own."""
    monkeypatch.setenv("RISKFLOW_TOPIC_PREFIX", prefix)
    settings.cache_clear()
    made = Bench(log, **options)
    try:
        yield made
    finally:
        made.close()
        settings.cache_clear()
        if os.environ.get("RISKFLOW_SHOW_WORKER"):
            print(made.said())
