"""Tails the scores topic into the store, in a thread of its own.

Partitions are assigned by hand: there is no consumer group, and the positions stand in the store. Where the store has
none, reading begins one retention back. Whatever goes wrong with the broker, the thread says so and connects again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from riskflow.errors import NotReady
from serving.decision import ScoreMessage
from serving.progress import Progress
from serving.store import Row, Store

log = structlog.get_logger(__name__)
POLL_MS = 200
ANSWER_MS = 5_000
BATCH_RECORDS = 10_000
FETCH_BYTES = 8 * 1024 * 1024
RETRY_S = 1.0
ENDS_EVERY_S = 1.0
TOPIC_EVERY_S = 30.0
CLEAN_EVERY_S = 30.0
AWAY = (KafkaError, OSError)


class TopicMissing(NotReady):
    """`riskflow topics` has not been run for this use case."""


class TopicChanged(NotReady):
    """The topic was made again or has more partitions: begin anew with what is there now."""


class Reader:
    """One use case's thread."""

    def __init__(self, bootstrap: str, topic: str, store: Store, retention_s: float, progress: Progress) -> None:
        self.topic, self.store, self.retention_s, self.progress = topic, store, retention_s, progress
        self._bootstrap = bootstrap.split(",")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"scores of {topic}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end and waits for it; one batch or one unanswered question to the broker at most."""
        self._stopping.set()
        self._thread.join(3 * ANSWER_MS / 1000)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._tail()
            except Exception as error:
                self._failed(error)
                self._stopping.wait(RETRY_S)

    def _failed(self, error: Exception) -> None:
        """Says so once for each different reason; /readyz and /metrics go on saying it."""
        new = self.progress.failed(error, away=isinstance(error, AWAY), missing=isinstance(error, TopicMissing))
        if new:
            unexpected = not isinstance(error, (*AWAY, NotReady))
            log.warning("scores are not read", topic=self.topic, why=str(error) or repr(error), exc_info=unexpected)

    def _tail(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self._bootstrap, client_id="riskflow-serving", **_TIMEOUTS)
        try:
            topic_id, partitions = describe(admin, self.topic)
            consumer = KafkaConsumer(bootstrap_servers=self._bootstrap, **_TIMEOUTS, **_READING)
            try:
                Tail(self, admin, consumer, topic_id, partitions).run(self._stopping)
            finally:
                consumer.close(timeout_ms=1_000)
        finally:
            with suppress(*AWAY):
                admin.close()


_TIMEOUTS: dict[str, Any] = {"request_timeout_ms": ANSWER_MS, "bootstrap_timeout_ms": ANSWER_MS}
_READING: dict[str, Any] = {
    "client_id": "riskflow-serving",
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",  # where retention passed our position, what is left is still wanted
    "check_crcs": False,  # in pure Python two thirds of all time; the broker has checked what producers sent
    "max_poll_records": BATCH_RECORDS,
    "max_partition_fetch_bytes": FETCH_BYTES,
    "fetch_max_bytes": 2 * FETCH_BYTES,
}


class Tail:
    """One connection's work: read, write, look where the log ends, clean up."""

    def __init__(self, reader: Reader, admin: Any, consumer: Any, topic_id: str, partitions: int) -> None:
        self.topic, self.store, self.progress = reader.topic, reader.store, reader.progress
        self.retention_s, self.topic_id = reader.retention_s, topic_id
        self._admin, self._consumer = admin, consumer
        self._partitions = [TopicPartition(self.topic, p) for p in range(partitions)]
        self._due = dict.fromkeys((self._look_at_ends, self._look_at_topic, self._clean), 0.0)

    def run(self, stopping: threading.Event) -> None:
        self._begin()
        while not stopping.is_set():
            found = self._consumer.poll(timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
            if found:
                self._take(found)
            for work in self._due:
                self._when_due(work, time.monotonic())

    def _begin(self) -> None:
        self._consumer.assign(self._partitions)
        known = self.store.positions(self.topic_id)
        new = [tp for tp in self._partitions if tp.partition not in known]
        begins = self._first_offsets(new) if new else {}
        for tp in self._partitions:
            self._consumer.seek(tp, begins[tp] if tp in begins else known[tp.partition])
        self.progress.begin(self._positions())

    def _first_offsets(self, new: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where one retention back is. The ends are asked for first: what comes in between is read."""
        ends = self._consumer.end_offsets(new, timeout_ms=ANSWER_MS)
        young = self._consumer.offsets_for_times(dict.fromkeys(new, self._oldest_ms()), timeout_ms=ANSWER_MS)
        return {tp: ends[tp] if young.get(tp) is None else young[tp].offset for tp in new}

    def _take(self, found: Mapping[Any, list[Any]]) -> None:
        rows = list(self._rows(r for records in found.values() for r in records))
        positions = {tp.partition: records[-1].offset + 1 for tp, records in found.items() if records}
        self.store.write(rows, positions, self.topic_id)
        self.progress.took(len(rows), positions)

    def _rows(self, records: Iterator[Any]) -> Iterator[Row]:
        for record in records:
            row = as_row(record)
            if row is None:
                self.progress.unreadable(record)
            else:
                yield row

    def _when_due(self, work: Any, now_s: float) -> None:
        if now_s >= self._due[work]:
            self._due[work] = now_s + work()

    def _look_at_ends(self) -> float:
        asked_s = time.monotonic()
        ends = self._consumer.end_offsets(self._partitions, timeout_ms=ANSWER_MS)
        self.progress.ends({tp.partition: end for tp, end in ends.items()}, asked_s)
        return ENDS_EVERY_S

    def _look_at_topic(self) -> float:
        if describe(self._admin, self.topic) != (self.topic_id, len(self._partitions)):
            raise TopicChanged(f"topic {self.topic} was made again or has other partitions now")
        return TOPIC_EVERY_S

    def _clean(self) -> float:
        """A full piece means there is more: the next one follows after the next batch."""
        return 0.0 if self.store.delete_before(self._oldest_ms()) else CLEAN_EVERY_S

    def _oldest_ms(self) -> int:
        return int((time.time() - self.retention_s) * 1000)

    def _positions(self) -> dict[int, int]:
        return {tp.partition: self._consumer.position(tp, timeout_ms=ANSWER_MS) for tp in self._partitions}


def describe(admin: Any, topic: str) -> tuple[str, int]:
    """(topic id, number of partitions); raises TopicMissing where there is none."""
    for found in admin.describe_topics([topic]):
        if found["name"] == topic and not found["error_code"]:
            return str(found["topic_id"]), len(found["partitions"])
    raise TopicMissing(f"topic {topic} is missing. Run `riskflow topics {topic.rpartition('.')[0]}`.")


def as_row(record: Any) -> Row | None:
    """A record as the store keeps it; None when it is not a score."""
    try:
        message = _decode(record.value)
        headers = dict(record.headers)
        epoch, decided = int(headers.get("epoch", 0)), headers.get("decided-at")
        worker = headers.get("worker", b"").decode(errors="replace") or None
        decided_at_ms = int(decided) if decided is not None else None
    except (TypeError, ValueError, msgspec.MsgspecError):
        return None
    return message.event_id.encode(), record.value, epoch, decided_at_ms, worker, record.timestamp


_decode = msgspec.json.Decoder(ScoreMessage).decode
