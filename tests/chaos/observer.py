"""What came out: scores and rejected messages, read whole from the real topics. For runs of a few thousand events."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from riskflow.names import Names


class Topics:
    """Reads whole topics."""

    def __init__(self, bootstrap: str, names: Names) -> None:
        self.names = names
        self._consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")

    def close(self) -> None:
        self._consumer.close()

    def end(self, topic: str) -> int:
        """Records in a topic."""
        return sum(self._consumer.end_offsets(self._partitions(topic)).values())

    def read(self, topic: str) -> list[Any]:
        """All records of a topic, partition by partition."""
        found = []
        for tp in self._partitions(topic):
            end = self._consumer.end_offsets([tp])[tp]
            self._consumer.assign([tp])
            self._consumer.seek_to_beginning(tp)
            while self._consumer.position(tp) < end:
                for records in self._consumer.poll(500).values():
                    found += records
        return found

    def scores(self) -> dict[str, list[bytes]]:
        """Event id -> all its scores, as bytes."""
        found: dict[str, list[bytes]] = defaultdict(list)
        for record in self.read(self.names.scores):
            found[record.key.decode()].append(record.value)
        return found

    def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, p) for p in sorted(self._consumer.partitions_for_topic(topic) or ())]


def wait_until(condition: Any, timeout_s: float, what: str) -> None:
    """Polls until the condition holds; fails the test naming what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s} s")
        time.sleep(0.1)
