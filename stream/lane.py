"""A lane: what waits in one claimed partition of a stage, taken in order, batch after batch."""

from __future__ import annotations

from collections import deque
from typing import Any

from faust.types import TP

from riskflow.errors import Leave, NotReady
from riskflow.record_batches import TOO_LARGE, Unreadable, first_offset, stands_for
from stream.batch import Batch, StageApply
from stream.fetcher import Records, Span
from stream.head import Head
from stream.transport import Consumer

LANE_RECORDS = 20_000  # records that may wait in a lane before its partition is not fetched for a while
LANE_BYTES = 32 * 1024 * 1024
BATCH_BLOCKS = 64  # fetched blocks of an internal log merged into one batch, at most
BATCH_BYTES = 4 * 1024 * 1024
STUCK_STARTS = 3
# Only we write blocks, so a disk has lost them; passing over them would lose their rows.
DAMAGED_LOG = "Let a replica that is whole lead this partition (kafka-leader-election.sh), then start the worker again."


class Lane:
    """One partition's queue, from which batches are taken."""

    def __init__(self, stage: StageApply, head: Head, tp: TP, batch_rows: int, consumer: Consumer) -> None:
        self.stage, self.head, self.tp = stage, head, tp
        self._batch = BATCH_BLOCKS if stage.internal else batch_rows
        self._consumer = consumer
        self._waiting: deque[Any] = deque()
        self.busy = self.closed = False
        self.served = 0  # a larger number: later
        self._next = head.position  # the next offset this lane takes in
        self._full = False
        self._bytes = 0
        self._singly = head.position + self._batch if head.starts >= STUCK_STARTS else 0  # finds what fails

    def put(self, span: Span) -> bool:
        """Takes what is at and after the next offset; what is before it was applied or is waiting already.

        False when something between is missing: it has to be read again from the next offset.
        """
        if span.begin > self._next:
            return False
        fresh = [r for r in span.records if r.offset >= self._next] if span.begin < self._next else span.records
        if self.stage.internal and fresh and first_offset(fresh[0]) > self._next:
            raise Leave(
                f"stage {self.stage.name!r}, partition {self.tp.partition}: offset {first_offset(fresh[0])} came where "
                f"{self._next} was expected. If the log lost it (retention, another topic), run `riskflow rebuild`."
            )
        self._waiting.extend(fresh)
        self._bytes += sum(len(r.value or b"") for r in fresh)
        self._next = max(self._next, span.end)
        if (len(self._waiting) > LANE_RECORDS or self._bytes > LANE_BYTES) and not self._full:
            self._full = True
            self._consumer.hold(self.tp)
        return True

    @property
    def full(self) -> bool:
        """So much waits that no more is fetched for a while."""
        return self._full

    @property
    def next_offset(self) -> int:
        """The offset that the next fetch must begin with."""
        return self._next

    @property
    def ready(self) -> bool:
        """Something waits, and nothing of this partition is being applied."""
        return bool(self._waiting) and not (self.busy or self.closed or self.head.ended)

    @property
    def at_rest(self) -> bool:
        """Nothing waits, and nothing of this partition is being applied."""
        return not (self._waiting or self.busy or self.closed or self.head.ended)

    @property
    def bytes_ready(self) -> int:
        """About what the next batch will hold."""
        return min(self._bytes, BATCH_BYTES)

    @property
    def alone(self) -> bool:
        """Others must not wait for it: it failed at the last start, or has to wait where another generation ends."""
        return self.head.starts > 1 or self.head.behind is not None

    def take(self) -> Batch:
        """The next batch."""
        batch = self._take()
        self._check_readable(batch[0], self.head.names.usecase)
        return Batch(self.head, batch)

    def _check_readable(self, record: Any, use_case: str) -> None:
        """What cannot be read is passed over only by hand. A batch that is too large is for the feed to reject."""
        value = record.value
        if not isinstance(value, Unreadable) or (value.kind == TOO_LARGE and not self.stage.internal):
            return
        where = f"topic {self.tp.topic}, partition {self.tp.partition}: {value.why}"
        if self.stage.internal:
            raise NotReady(f"{where}. {DAMAGED_LOG}")
        if not any(stands_for(record, offset) for offset in self.head.parked):
            command = f"riskflow park {use_case} {self.stage.name} {self.tp.partition} {value.first}"
            raise NotReady(
                f"{where}. What comes behind it waits. To go on without it run `{command}`, "
                "which keeps its bytes, and start the worker again."
            )

    def _take(self) -> Records:
        batch, size = [], 0
        most = 1 if self.head.position < self._singly else self._batch
        while self._waiting and len(batch) < most and size < BATCH_BYTES:
            alone = isinstance(self._waiting[0].value, Unreadable)
            if alone and batch:
                break  # what came before it is committed first
            record = self._waiting.popleft()
            size += len(record.value or b"")
            batch.append(record)
            if alone:
                break
        self._bytes -= size
        if self._full and len(self._waiting) < LANE_RECORDS // 2 and self._bytes < LANE_BYTES // 2:
            self._full = False
            self._consumer.let_go(self.tp)
        return batch
