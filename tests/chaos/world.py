"""A log with known ids: late, out-of-order, duplicate and broken events, and labels, from one seed."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from kafka import KafkaProducer

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass
class Message:
    """One message as a producer sends it; `expect` says what must become of it."""

    feed: str
    value: bytes
    id: str
    expect: str  # score, duplicate, row (a label), rejected


@dataclass
class World:
    """Messages in the order in which they are sent."""

    messages: list[Message] = field(default_factory=list)

    def ids(self, expect: str) -> set[str]:
        return {m.id for m in self.messages if m.expect == expect}


def make_world(events: int, seed: int, customers: int = 300, terminals: int = 100) -> World:
    """About 5 % late events, 1 % duplicates, 0.5 % broken messages, 5 % labels with ids."""
    rng = np.random.default_rng(seed)
    world, sent = World(), []
    start_ms = int(time.time() * 1000) - 20 * DAY_MS
    for i in range(events):
        event = _event(rng, i, start_ms + i * 40_000, customers, terminals)
        world.messages.append(Message("events", json.dumps(event).encode(), event["event_id"], "score"))
        sent.append(event)
        if rng.random() < 0.01:  # the copy comes at once, so it is among its customer's last 32
            world.messages.append(Message("events", json.dumps(event).encode(), event["event_id"], "duplicate"))
        if rng.random() < 0.05:
            label = _label(rng, sent[int(rng.integers(0, len(sent)))], len(sent))
            world.messages.append(Message("labels", json.dumps(label).encode(), label["label_id"], "row"))
        if rng.random() < 0.005:
            world.messages.append(Message("events", _broken(rng, i), f"broken-{i}", "rejected"))
    return world


def _event(rng: np.random.Generator, i: int, at_ms: int, customers: int, terminals: int) -> dict[str, object]:
    late_ms = int(rng.integers(0, 2 * DAY_MS)) if rng.random() < 0.05 else int(rng.integers(0, 90_000))
    return {
        "event_id": f"e{i}",
        "occurred_at": at_ms - late_ms,
        "customer_id": f"c{int(rng.integers(0, customers))}",
        "terminal_id": int(rng.integers(0, terminals)),
        "amount": round(float(rng.gamma(1.0, 60.0)), 2),
        "channel": str(rng.choice(["chip", "contactless", "online"])),
    }


def _label(rng: np.random.Generator, event: dict[str, object], n: int) -> dict[str, object]:
    return {
        "label_id": f"l{n}-{event['event_id']}-{int(rng.integers(0, 10**9))}",
        "event_id": event["event_id"],
        "is_fraud": bool(rng.random() < 0.3),
        "labelled_at": int(str(event["occurred_at"])) + int(rng.integers(1, 3 * DAY_MS)),
        "source": "chargeback",
        "customer_id": event["customer_id"],
        "terminal_id": event["terminal_id"],
        "amount": event["amount"],
    }


def _broken(rng: np.random.Generator, i: int) -> bytes:
    kinds = [b'{"event_id": "broken', b"null", b'{"event_id": "x%d"}' % i, b"\xff\xfe", b'{"amount": "many"}']
    return kinds[int(rng.integers(0, len(kinds)))]


TRICKLE_S = 0.1


class Pacer(threading.Thread):
    """Sends a world's messages at a steady rate, in order, and waits for the acknowledgements.

    Beyond `allowed` (a share of the world) it only trickles, so that events still flow when the last worker is killed
    on a machine where restarts are slow.
    """

    def __init__(self, world: World, bootstrap: str, prefix: str, usecase: str, per_s: float) -> None:
        super().__init__(daemon=True)
        self.world, self.per_s = world, per_s
        self.error: BaseException | None = None
        self.allowed = 1.0
        self._kafka, self._prefix, self._usecase = bootstrap, prefix, usecase

    def run(self) -> None:
        try:
            self._send()
        except BaseException as error:
            self.error = error

    def _send(self) -> None:
        producer = KafkaProducer(bootstrap_servers=self._kafka, linger_ms=5)
        due_s, futures, n = time.monotonic(), [], len(self.world.messages)
        for i, message in enumerate(self.world.messages):
            due_s = max(due_s, time.monotonic() - 1.0) + (1 / self.per_s if i < self.allowed * n else TRICKLE_S)
            ahead_s = due_s - time.monotonic()
            if ahead_s > 0.005:
                time.sleep(ahead_s)
            topic = f"{self._prefix}{self._usecase}.{message.feed}"
            futures.append(producer.send(topic, value=message.value, key=message.id.encode()))
        producer.flush(60)
        for future in futures:
            future.get(30)
        producer.close()
