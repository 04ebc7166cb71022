"""Watches events, scores and rejections as they are written: how fast, how late, what was decided, by which bundle.

Latency is the score's broker timestamp less the event's: one clock, and neither sender nor observer is measured.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from riskflow.names import Names

RECENT_MS = 10_000
MOST_SUSPICIOUS = 5
APPROVED = "approve"


@dataclass(frozen=True)
class Suspect:
    """One event that was not approved, for people."""

    score: float
    event_id: str
    action: str
    reasons: list[str]
    about: str
    at_ms: int


@dataclass
class View:
    """What is shown: totals, and rate and latency of the last seconds."""

    scores: int = 0
    per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    waiting: int = 0
    rejected: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    version: int | None = None
    suspects: list[Suspect] = field(default_factory=list)


class Observer(threading.Thread):
    """Begins where the topics end when it is made."""

    def __init__(self, kafka: str, names: Names) -> None:
        super().__init__(name="observer", daemon=True)
        self.scored: dict[str, bytes] = {}  # event id -> its score as it was first seen
        self.duplicates = 0  # scores beyond an event's first one
        self.differing = 0  # of them, other bytes
        self.rejected = 0
        self.latencies_ms: list[int] = []
        self.first_ms: dict[int, int] = {}  # bundle version -> broker time of its first score
        self.actions: Counter[str] = Counter()
        self._events: dict[str, tuple[int, bytes]] = {}  # not scored yet
        self._early: dict[str, tuple[int, dict[str, Any]]] = {}  # scored, event not seen yet
        self._recent: deque[tuple[int, int]] = deque()
        self._suspects: list[Suspect] = []
        self._lock, self._end = threading.Lock(), threading.Event()
        self._topics = {names.feed("events"): self._event, names.scores: self._score, names.rejected: self._rejected}
        self._consumer = self._open(kafka)

    def run(self) -> None:
        while not self._end.is_set():
            for tp, records in self._consumer.poll(200).items():
                take = self._topics[tp.topic]
                with self._lock:
                    for record in records:
                        take(record)
        self._consumer.close()

    def stop(self) -> None:
        self._end.set()
        self.join(10)

    def view(self) -> View:
        """A moment's picture."""
        with self._lock:
            since_ms = int(time.time() * 1000) - RECENT_MS
            while self._recent and self._recent[0][0] < since_ms:
                self._recent.popleft()
            recent = [latency for _, latency in self._recent]
            newest = max(self.first_ms, key=lambda v: self.first_ms[v], default=None)
            return View(
                len(self.scored), len(recent) / (RECENT_MS / 1000), percentile(recent, 50), percentile(recent, 99),
                len(self._events), self.rejected, Counter(self.actions), newest, list(self._suspects),
            )  # fmt: skip

    def _open(self, kafka: str) -> KafkaConsumer:
        consumer = KafkaConsumer(bootstrap_servers=kafka.split(","), enable_auto_commit=False, fetch_max_wait_ms=100)
        consumer.assign([TopicPartition(t, p) for t in self._topics for p in consumer.partitions_for_topic(t) or ()])
        consumer.seek_to_end()
        for tp in consumer.assignment():
            consumer.position(tp)  # now, not at the first poll
        return consumer

    def _event(self, record: Any) -> None:
        name = record.key.decode()
        if name in self._early:
            self._count(*self._early.pop(name), record.timestamp, record.value)
        elif name not in self.scored:
            self._events[name] = (record.timestamp, record.value)

    def _score(self, record: Any) -> None:
        name = record.key.decode()
        if name in self.scored:
            self.duplicates += 1
            self.differing += self.scored[name] != record.value
            return
        self.scored[name] = record.value
        score = json.loads(record.value)
        self.actions[score["action"]] += 1
        self.first_ms.setdefault(score["bundle"], record.timestamp)
        if name in self._events:
            self._count(record.timestamp, score, *self._events.pop(name))
        else:
            self._early[name] = (record.timestamp, score)

    def _rejected(self, record: Any) -> None:
        self.rejected += 1

    def _count(self, at_ms: int, score: dict[str, Any], event_ms: int, event: bytes) -> None:
        self.latencies_ms.append(at_ms - event_ms)
        self._recent.append((at_ms, at_ms - event_ms))
        if score["action"] != APPROVED:
            self._suspect(at_ms, score, json.loads(event))

    def _suspect(self, at_ms: int, score: dict[str, Any], event: dict[str, Any]) -> None:
        """The most suspicious of the last half minute."""
        about = f"{event['amount']:.2f} at {event['terminal_id']} by {event['customer_id']}"
        found = Suspect(score["score"], score["event_id"], score["action"], score["reasons"], about, at_ms)
        recent = [s for s in self._suspects if s.at_ms > at_ms - 3 * RECENT_MS]
        self._suspects = sorted([*recent, found], key=lambda s: -s.score)[:MOST_SUSPICIOUS]


def percentile(values: list[int], share: int) -> float:
    """The smallest value that `share` % of all do not exceed; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return float(ordered[max(0, -(-len(ordered) * share // 100) - 1)])
