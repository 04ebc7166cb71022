"""What came out of a system and when, by the broker's clock; what it cost, by the CPU time of its processes.

Topics that are clocked have `message.timestamp.type=LogAppendTime`. While a system works only the ends of its output
topic are asked for; what stands in it is read afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from kafka import KafkaConsumer, TopicPartition
from numpy.typing import NDArray

MIB = 1 << 20
POLL_S, SETTLED_S, SAMPLE_S = 0.2, 1.0, 0.1


@dataclass(frozen=True)
class Arrivals:
    """Messages of an output topic and when the broker took them, in order of time."""

    keys: list[bytes]
    values: list[bytes]
    at_ms: NDArray[np.int64]

    @property
    def distinct(self) -> int:
        return len(set(self.keys))


def per_second(at_ms: NDArray[np.int64], since_ms: float) -> float:
    """Arrivals a second, from a moment to the last one."""
    return len(at_ms) / max(1e-3, (float(at_ms[-1]) - since_ms) / 1000) if len(at_ms) else 0.0


class Output:
    """A topic that a system writes, seen by a reader of committed messages."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer: Any = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
        self._partitions = [TopicPartition(topic, p) for p in sorted(self._consumer.partitions_for_topic(topic))]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def settled(self, wanted: int, timeout_s: float, alive: Callable[[], bool]) -> bool:
        """Waits until its ends add up to at least so many and stand still; transactions put marks there as well.

        False when the time is up or nobody lives who could write.
        """
        deadline = time.monotonic() + timeout_s
        before, since = -1, time.monotonic()
        while time.monotonic() < deadline and alive():
            total = sum(self._consumer.end_offsets(self._partitions).values())
            if total != before:
                before, since = total, time.monotonic()
            elif total >= wanted and time.monotonic() - since > SETTLED_S:
                return True
            time.sleep(POLL_S)
        return False

    def read(self, wanted: int, timeout_s: float) -> Arrivals:
        """All messages from the beginning: returns when so many have come and no more come, or the time is up."""
        keys: list[bytes] = []
        values: list[bytes] = []
        stamps: list[int] = []
        deadline, last = time.monotonic() + timeout_s, time.monotonic()
        while time.monotonic() < deadline and (len(keys) < wanted or time.monotonic() < last + SETTLED_S):
            for records in self._consumer.poll(200, max_records=50_000).values():
                last = time.monotonic()
                keys += [r.key for r in records]
                values += [r.value for r in records]
                stamps += [r.timestamp for r in records]
        order = np.argsort(np.array(stamps, np.int64), kind="stable").tolist()
        return Arrivals([keys[i] for i in order], [values[i] for i in order], np.array(stamps, np.int64)[order])


class Meter:
    """CPU seconds, as a function of time, and memory of some processes and all that they started."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]
        self._last: dict[int, float] = {}
        self._samples: list[tuple[float, float]] = []
        self.peak_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def alive(self) -> bool:
        """Whether all of the processes themselves still run."""
        return all(root.is_running() and root.status() != psutil.STATUS_ZOMBIE for root in self._roots)

    def used_s(self, from_ms: float, until_ms: float) -> float:
        """CPU seconds used between two moments of this machine's clock."""
        at, used = np.array(self._samples).T
        return float(np.interp(until_ms / 1000, at, used) - np.interp(from_ms / 1000, at, used))

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._samples.append((time.time(), self._total()))

    def _total(self) -> float:
        """A process that has ended counts with what it had used."""
        resident = 0
        for process in [p for root in self._roots for p in _tree(root)]:
            try:
                times = process.cpu_times()
                resident += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self._last[process.pid] = times.user + times.system
        self.peak_mib = max(self.peak_mib, resident / MIB)
        return sum(self._last.values())


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
