"""Sends a world to Kafka at a steady rate, in order, each message once, and waits until all are acknowledged.

Beyond `allowed`, a share of the events, it only trickles: each fault gets its part of them, and something always flows,
however long recoveries take; then there are more events than were asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from kafka import KafkaProducer

from chaos.world import Message

TRICKLE_PER_S = 20.0
IN_FLIGHT = 20_000
PATIENCE_MS = 600_000  # a broker that was killed comes back


class Pacer(threading.Thread):
    """Sends in the background; `error` says why it ended early, `sent` how far it is."""

    def __init__(
        self, messages: Iterable[Message], events: int, kafka: str, topic: Callable[[str], str], partitions: int,
        per_s: float,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True, name="pacer")
        self.allowed, self.sent, self.events = 1.0, 0, 0
        self.error: BaseException | None = None
        self._messages, self._wanted, self._kafka, self._topic = messages, events, kafka, topic
        self._partitions, self._per_s = partitions, per_s
        self._waiting = threading.Semaphore(IN_FLIGHT)
        self._finishing = False

    def run(self) -> None:
        try:
            self._send()
        except BaseException as error:
            self.error = error

    def finish(self) -> None:
        """Sends the rest at full rate, if there is a rest; raises what went wrong."""
        self.allowed, self._finishing = 1.0, True
        self.join()
        if self.error is not None:
            raise self.error

    @property
    def _free(self) -> bool:
        return self.events < self.allowed * self._wanted

    def _send(self) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self._kafka, linger_ms=10, batch_size=64 * 1024, max_request_size=4 * 1024 * 1024,
            delivery_timeout_ms=PATIENCE_MS, max_block_ms=PATIENCE_MS, acks="all",
        )  # fmt: skip
        due_s = time.monotonic()
        for message in self._messages:
            if self.error is not None or (self._finishing and self.events >= self._wanted):
                break
            due_s = max(due_s, time.monotonic() - 1.0) + 1 / (self._per_s if self._free else TRICKLE_PER_S)
            self._wait_until(due_s)
            self._waiting.acquire()
            future = producer.send(
                self._topic(message.feed), value=message.value, key=message.key,
                partition=message.spread % self._partitions,
            )  # fmt: skip
            future.add_callback(self._done).add_errback(self._failed)
            self.sent += 1
            self.events += message.fate == b"e"
        producer.flush(PATIENCE_MS / 1000)
        producer.close()

    def _wait_until(self, due_s: float) -> None:
        held = not self._free
        while (ahead_s := due_s - time.monotonic()) > 0.005 and not (held and self._free):
            time.sleep(min(ahead_s, 0.05))

    def _done(self, _: Any) -> None:
        self._waiting.release()

    def _failed(self, error: BaseException) -> None:
        self.error = error
        self._waiting.release()
