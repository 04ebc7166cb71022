"""The course that every system runs: started and warmed up on a few events, then all others become visible at once.

The few events come in two parts, because the broker makes the index files of a partition grow with the second batch
there: the first page of each costs it milliseconds of waiting for the file system, once.

So the time runs from the moment when the events are there, to the last score as the broker stamped it: no start-up is
in it, and a system that works stage by stage gains nothing by bringing its first score late.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import polars as pl

from bench.clock import Arrivals, Meter, Output, per_second
from bench.events import Backlog
from riskflow.errors import NotReady

READY_S = 120.0
Start = Callable[[], AbstractContextManager[list[int]]]  # gives process ids


@dataclass(frozen=True)
class Result:
    """One system's run. Rates are events/s: from when the events were there, from the first of their scores, and over
    the second half of their scores. CPU time and memory are those of all its processes."""

    events: int
    scores: int
    distinct: int
    per_s: float
    from_first_per_s: float
    second_half_per_s: float
    cpu_us: float
    peak_mib: float

    @property
    def complete(self) -> bool:
        """Every event has its score, none has two."""
        return self.scores == self.distinct == self.events


def run(
    bootstrap: str,
    topics: tuple[str, str],
    table: pl.DataFrame,
    start: Start,
    *,
    warm: int,
    timeout_s: float,
    sees_open: bool = False,
) -> tuple[Result, Arrivals]:
    """One run over these events; also gives what came.

    topics: of events and of scores. warm: how many events come first and are not timed.
    sees_open: the system reads what is not committed; it finds all events when it starts, and its time runs from its
    first score on.
    """
    events, scores = topics
    with Backlog(bootstrap, events) as backlog, Output(bootstrap, scores) as output:
        backlog.put(table if sees_open else table[: warm // 2])
        with start() as pids, Meter(pids) as meter:
            if not sees_open:
                _warm_up(output, warm // 2, meter)
                backlog.put(table[warm // 2 : warm])
                backlog.hold(table[warm:])
            _warm_up(output, warm, meter)
            since_ms = 0.0 if sees_open else backlog.release()
            output.settled(len(table), timeout_s, meter.alive)
            came = output.read(len(table), timeout_s)
        return result(len(table), came, since_ms, meter), came


def _warm_up(output: Output, events: int, meter: Meter) -> None:
    if not output.settled(events, READY_S, meter.alive):
        raise NotReady(f"the first {events} events were not scored within {READY_S:.0f} s, or the system ended")


def result(events: int, came: Arrivals, since_ms: float, meter: Meter) -> Result:
    """What was timed are the scores after a moment."""
    if not len(came.at_ms):
        raise NotReady("no scores came")
    timed = came.at_ms[came.at_ms >= since_ms]
    first, last = float(timed[0]), float(timed[-1])
    half = timed[len(timed) // 2 :]
    return Result(
        events, len(came.keys), came.distinct,
        per_s=round(per_second(timed, since_ms or first)),
        from_first_per_s=round(per_second(timed, first)),
        second_half_per_s=round(per_second(half, float(np.min(half)))),
        cpu_us=round(meter.used_s(since_ms or first, last) * 1e6 / len(timed), 1),
        peak_mib=round(meter.peak_mib),
    )  # fmt: skip
