"""Listens to the scores while they come: who scored last and when, by the broker's clock."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError


@dataclass
class Heard:
    """Of one slot since `since_ms`: when its first score came, and the last one."""

    since_ms: float = 0.0
    first_ms: float = 0.0
    last_ms: float = 0.0


class Tail(threading.Thread):
    """Follows the scores topic; `heard` is by slot."""

    def __init__(self, kafka: str, topic: str) -> None:
        super().__init__(daemon=True, name="tail")
        self.scores = 0
        self.last_ms = 0.0
        self._heard: dict[int, Heard] = {}
        self._kafka, self._topic = kafka, topic
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def began(self, slot: int) -> None:
        """A worker starts in the slot: what its predecessor still said does not count."""
        with self._lock:
            self._heard[slot] = Heard(time.time() * 1000 + 300)

    def of(self, slot: int) -> Heard:
        return self._heard.setdefault(slot, Heard())

    def has_scored(self, slot: int) -> bool:
        """Whether the worker that runs or ran last in the slot has scored."""
        return self.of(slot).first_ms > 0

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow()
            except (KafkaError, OSError, ValueError):
                time.sleep(0.5)

    def close(self) -> None:
        self._ended.set()
        self.join(10)

    def _follow(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._kafka, isolation_level="read_committed", max_poll_records=5_000
        )
        try:
            tps = [TopicPartition(self._topic, p) for p in sorted(consumer.partitions_for_topic(self._topic) or ())]
            consumer.assign(tps)
            consumer.seek_to_end(*tps)
            while not self._ended.is_set():
                for records in consumer.poll(200).values():
                    self._take(records)
        finally:
            consumer.close()

    def _take(self, records: list[object]) -> None:
        with self._lock:
            for record in records:
                slot = int(dict(record.headers)["worker"].rpartition(b"/")[2])  # type: ignore[attr-defined]
                at_ms = record.timestamp  # type: ignore[attr-defined]
                heard = self.of(slot)
                if at_ms > heard.since_ms:
                    heard.first_ms = heard.first_ms or at_ms
                    heard.last_ms = max(heard.last_ms, at_ms)
                self.last_ms = max(self.last_ms, at_ms)
                self.scores += 1
