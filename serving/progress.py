"""How far a reader is. The reader's thread writes it, requests and metrics read it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from serving.metrics import Metrics

log = structlog.get_logger(__name__)
SILENT_S = 10.0
CAUGHT_UP_S = 10.0


@dataclass(frozen=True)
class Status:
    """One look at a reader. `behind_s` is None while it is not known."""

    reachable: bool
    set_up: bool
    behind_s: float | None
    behind_records: int | None
    error: str | None

    @property
    def caught_up(self) -> bool:
        return self.behind_s is not None and self.behind_s <= CAUGHT_UP_S


class Progress:
    """Compares positions with the ends of the log as they were some time ago: what was there then must be read now."""

    def __init__(self, use_case: str, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._positions: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._target: dict[int, int] | None = None
        self._target_s = 0.0
        self._current_s: float | None = None  # everything written before this moment has been read
        self._answered_s: float | None = None
        self._error: str | None = "not connected yet"
        self._set_up = True
        self._scores_read, self._unreadable = metrics.scores_read.labels(use_case), metrics.unreadable.labels(use_case)
        metrics.behind_of(use_case, lambda: self.status().behind_s)

    def begin(self, positions: Mapping[int, int]) -> None:
        with self._lock:
            self._positions, self._target, self._ends, self._set_up = dict(positions), None, {}, True
            self._answered()

    def took(self, scores: int, positions: Mapping[int, int]) -> None:
        self._scores_read.inc(scores)
        with self._lock:
            self._positions.update(positions)
            self._compare()

    def ends(self, ends: Mapping[int, int], asked_s: float) -> None:
        """Where each partition ended at `asked_s`. A target stays until it is reached."""
        with self._lock:
            self._ends = dict(ends)
            if self._target is None:
                self._target, self._target_s = dict(ends), asked_s
            self._answered()
            self._compare()

    def failed(self, error: Exception, *, away: bool, missing: bool) -> bool:
        """away: the broker did not answer; missing: it has no such topic. True when the reason is a new one."""
        with self._lock:
            text, before = str(error) or repr(error), self._error
            self._error, self._set_up = text, not missing
            self._answered_s = None if away else self._clock()
            return text != before

    def unreadable(self, record: Any) -> None:
        self._unreadable.inc()
        log.warning("not a score", topic=record.topic, partition=record.partition, offset=record.offset)

    def status(self) -> Status:
        with self._lock:
            now_s = self._clock()
            reachable = self._answered_s is not None and now_s - self._answered_s <= SILENT_S
            behind_s = None if self._current_s is None else max(0.0, now_s - self._current_s)
            records = sum(max(0, end - self._positions.get(p, 0)) for p, end in self._ends.items())
            return Status(reachable, self._set_up, behind_s, records if self._ends else None, self._error)

    def _answered(self) -> None:
        self._answered_s, self._error = self._clock(), None

    def _compare(self) -> None:
        if self._target is not None and all(self._positions.get(p, 0) >= end for p, end in self._target.items()):
            self._current_s, self._target = self._target_s, None
