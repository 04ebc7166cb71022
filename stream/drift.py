"""Counts what the models see beside what they learned from, and tells of it: gauges, and snapshots on a topic.

Drift is no state. Counts stand in this process's memory and leave it every `drift_s` seconds, by wall clock: a crash
loses those that have not left, and what is scored again after it is counted again. Nothing waits for any of this, and
nothing breaks by it: whatever fails is caught, counted and logged once.

Gauges are made of what this worker has scored within the last 24 hours; `riskflow drift` and the batch step look at
all of it. Memory is bounded: a table of whole numbers for each of these hours, for at most four bundles.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import structlog

from riskflow.columns import Columns, Text
from riskflow.drift import (
    SCORE,
    WIDTH,
    Places,
    Reference,
    Snapshot,
    Table,
    count,
    missing_share,
    places,
    sampled,
)
from riskflow.evaluate import ID
from riskflow.scoring import Scored
from stream import metrics
from stream.swap import Live

TOLD = 10  # features that have a gauge of their own
HOURS, HOUR_MS = 24, 3_600_000
BUNDLES = 4
CELLS = 24  # values that are counted for each event, on average
Record = tuple[bytes | None, bytes, list[tuple[str, bytes]]]
Send = Callable[[str, int, Iterable[Record]], Awaitable[list[Awaitable[Any]]]]

log = structlog.get_logger(__name__)


class Counted:
    """What this worker has counted of one bundle: since its last snapshot, and in each of the last hours."""

    def __init__(self, live: Live, share: float | None, now_ms: int) -> None:
        bundle = live.scorer.bundle
        self.bundle, self.hash = live.version, live.hash
        self.reference = Reference.of(bundle.profile, int(bundle.data.get("rows", 0)))
        self.share = share or min(1.0, CELLS / max(1, len(self.reference)))
        self._places: list[Places] = places(self.reference, [(one.name, one.inputs) for one in live.scorer.layers])
        self._fresh, self._hours = self.reference.table(), dict[int, Table]()
        self._start(now_ms)

    def _start(self, now_ms: int) -> None:
        self._from_ms, self.events = now_ms, 0
        self._fresh[:] = 0

    def add(self, events: Columns, scored: Scored) -> None:
        """Counts a share of these events."""
        ids: Any = events[ID]
        count(self._places, scored.matrices, scored.score, sampled(ids.hashes(), self.share), self._fresh)
        self.events += len(ids)

    def snapshot(self, now_ms: int) -> Snapshot:
        """What was counted since the last one."""
        hour = now_ms // HOUR_MS
        self._hours[hour] = self._hours.get(hour, 0) + self._fresh
        for old in [h for h in self._hours if h <= hour - HOURS]:
            del self._hours[old]
        counts = dict(zip(self.reference.names, self._fresh.tolist(), strict=True))
        out = Snapshot(self.bundle, self.hash, self.share, self._from_ms, now_ms, self.events, counts)
        self._start(now_ms)
        return out

    def recent(self) -> Table:
        """Counts of the last hours, as of the last snapshot."""
        return sum(self._hours.values(), self.reference.table())


class Drift:
    """Drift of one worker. `send` is the producer's."""

    def __init__(
        self,
        usecase: str,
        topic: str,
        worker: str,
        send: Send,
        every_s: float,
        share: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.usecase, self.topic, self.worker = usecase, topic, worker
        self._send_records, self._every_s, self._share, self._clock = send, every_s, share, clock
        self._counted: dict[str, Counted] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        if every_s:
            _compile()

    def observe(self, live: Live, events: Columns, scored: Scored) -> None:
        """Counts events that a bundle has just scored. It never raises and never waits."""
        if not self._every_s:
            return
        try:
            counted = self._of(live)
            if len(counted.reference):
                counted.add(events, scored)
                self._timer = self._timer or self._soon()
        except Exception as error:
            self._failed(error)

    def _of(self, live: Live) -> Counted:
        counted = self._counted.pop(live.hash, None) or Counted(live, self._share, self._now_ms())
        self._counted[live.hash] = counted  # the one that was used last stands last
        for old in list(self._counted)[:-BUNDLES]:
            del self._counted[old]
        return counted

    def _soon(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._every_s, self._tell)

    def _tell(self) -> None:
        """Sends what has been counted, unless the last snapshots are still on their way; sets the gauges."""
        self._timer = None
        if self._sending is not None and not self._sending.done():
            self._timer = self._soon()
            return
        try:
            busy = [c for c in self._counted.values() if c.events]
            most = max(busy, key=lambda c: c.events)
            now_ms = self._now_ms()
            snapshots = [part for c in busy for part in c.snapshot(now_ms).parts()]
            self._sending = asyncio.get_running_loop().create_task(self._send(snapshots))
            show(self.usecase, most.reference, most.recent())
        except Exception as error:
            self._failed(error)

    async def _send(self, snapshots: list[Snapshot]) -> None:
        try:
            encode, key = msgspec.json.Encoder().encode, self.worker.encode()
            pending = await self._send_records(self.topic, 0, [(key, encode(s), []) for s in snapshots])
            await asyncio.gather(*pending)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        metrics.DRIFT_FAILURES.labels(self.usecase).inc()
        why = f"{type(error).__name__}: {error}"
        if why not in self._told and len(self._told) < TOLD:
            self._told.add(why)
            log.error("drift is not measured; scoring goes on", why=why, fix=f"riskflow topics {self.usecase}")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _compile() -> None:
    """Takes the kernels from the cache before events wait for them."""
    reference = Reference.of({SCORE: {"cuts": [0.5], "counts": [1] * WIDTH}})
    rows = sampled(Text.of([b"warm-up"]).hashes(), 0.5)
    count(places(reference, []), {}, np.zeros(1), np.append(rows, 0), reference.table())


def show(usecase: str, reference: Reference, table: Table) -> None:
    """Sets the gauges: of all features the largest and the mean, of the worst few each its own."""
    psi, missing = np.nan_to_num(reference.psi(table)), np.nan_to_num(missing_share(table))
    change = np.abs(missing - np.nan_to_num(missing_share(reference.counts)))
    metrics.DRIFT_PSI_MAX.labels(usecase).set(float(psi.max()))
    metrics.DRIFT_PSI_MEAN.labels(usecase).set(float(psi.mean()))
    metrics.DRIFT_COUNTED.labels(usecase).set(int(table.sum(axis=1).max()))
    for gauge, values, rank in ((metrics.DRIFT_PSI, psi, psi), (metrics.DRIFT_MISSING, missing, change)):
        gauge.clear()
        for i in np.argsort(-rank, kind="stable")[:TOLD].tolist():
            gauge.labels(usecase, reference.names[i]).set(float(values[i]))
