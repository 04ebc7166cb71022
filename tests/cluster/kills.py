"""Kills a real worker while events flow, and counts: a kill counts only if the worker scored since its last start."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from stream import supervise
from tests.chaos.observer import wait_until
from tests.cluster.observer import Topics

POINTS = ("after_load", "after_send", "after_commit", "during_swap")
RANDOM = "random"


@dataclass
class Report:
    """What was done to the worker."""

    counted: Counter[str] = field(default_factory=Counter)
    in_vain: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)


class Victim:
    """One worker in slot 0, started again after each kill."""

    def __init__(self, usecase: str, topics: Topics, publish: Callable[[], None], seed: int, log_path: str) -> None:
        self.usecase, self.topics, self.publish = usecase, topics, publish
        self.report = Report()
        self._random = random.Random(seed)
        self._log = open(log_path, "ab")  # noqa: SIM115 - lives as long as the workers that write to it
        self.process: subprocess.Popen[bytes] | None = None
        self._scored_at_start = 0

    def scored(self) -> int:
        return self.topics.end(self.topics.names.scores)

    def start(self, **environment: str) -> None:
        self._scored_at_start = self.scored()
        self.process = supervise.start(self.usecase, 0, stderr=self._log, **environment)

    def has_scored(self) -> bool:
        return self.scored() > self._scored_at_start

    def kill_at(self, point: str) -> None:
        """Starts the worker, lets it score, ends it at the point (or at a random moment), and counts."""
        started = time.monotonic()
        if point == RANDOM:
            self.start()
            wait_until(self.has_scored, 150, "a score after a restart")
            self.report.recovery_s.append(time.monotonic() - started)
            time.sleep(self._random.uniform(0.0, 1.5))
            self._end(signal.SIGKILL)
        else:
            passes = 1 if point == "during_swap" else self._random.randint(1, 30)
            self.start(RISKFLOW_KILL_AT=f"{point}:{passes}")
            wait_until(self.has_scored, 150, "a score after a restart")
            self.report.recovery_s.append(time.monotonic() - started)
            if point == "during_swap":
                self.publish()
            assert self.process is not None
            self.process.wait(90)
            assert self.process.returncode == -signal.SIGKILL, f"the worker ended with {self.process.returncode}"
        (self.report.counted if self.has_scored() else self.report.in_vain)[point] += 1

    def stop(self) -> float:
        """SIGTERM; returns the seconds until it was gone."""
        started = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - started

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def _end(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)
