"""The workers of a run: each in its slot, started again whenever it ends, as a supervisor would.

A kill counts only if the worker has scored since its last start. How long it then took until the slot scored again
is its recovery: from the kill to the broker's timestamp of the first score.
"""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from chaos.tail import Tail
from stream import supervise

RANDOM = "random"
NOT_READY = 3
AGAIN_S = 1.0  # after an end for something that is missing: it may come back
WAIT_S = 180.0
REASON = re.compile(r'"why": "((?:[^"\\]|\\.){0,400})')


class Stuck(AssertionError):
    """Something that has to happen did not."""


@dataclass
class Slot:
    """One worker's place."""

    number: int
    log: Path
    environment: dict[str, str] = field(default_factory=dict)  # of every start
    armed: deque[str] = field(default_factory=deque)  # RISKFLOW_KILL_AT of the next starts
    running: str = ""  # and of the present one
    wanted: bool = True
    process: subprocess.Popen[bytes] | None = None
    file: IO[bytes] | None = None
    said_from: int = 0
    died_ms: float = 0.0
    not_before: float = 0.0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Ends:
    """What ended, and how."""

    counted: Counter[str] = field(default_factory=Counter)
    in_vain: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)
    stop_s: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    not_ready_in_a_row: int = 0


class Fleet:
    """Starts, kills, pauses and stops workers; a thread starts again what ended by itself."""

    def __init__(self, usecase: str, environment: dict[str, str], tail: Tail, logs: Path) -> None:
        self.usecase, self.tail, self.ends = usecase, tail, Ends()
        self.slots: dict[int, Slot] = {}
        self._environment, self._logs = environment, logs
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True, name="keeper")
        self._keeper.start()

    # one slot

    def add(self, number: int, environment: dict[str, str]) -> None:
        """A slot whose workers are started with these variables."""
        with self._lock:
            self.slots.setdefault(number, Slot(number, self._logs / f"worker-{number}.log", environment))

    def start(self, number: int) -> None:
        with self._lock:
            slot = self.slots.setdefault(number, Slot(number, self._logs / f"worker-{number}.log"))
            slot.wanted = True
            if not slot.alive:
                self._begin(slot)

    def stop(self, number: int, how: int = signal.SIGTERM) -> float:
        """Ends a worker for good; the seconds it took."""
        with self._lock:
            slot = self.slots[number]
            slot.wanted = False
            process = slot.process
        started = time.monotonic()
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(60)
        took = time.monotonic() - started
        if how == signal.SIGTERM:
            self.ends.stop_s.append(took)
        return took

    def signal(self, number: int, what: int) -> None:
        process = self.slots[number].process
        if process is not None:
            process.send_signal(what)

    def arm(self, number: int, points: list[str]) -> None:
        """The next starts of the slot end at these points, one after another; a point is `name:passes`."""
        self.slots[number].armed = deque(points)

    def armed_for(self, number: int, point: str) -> bool:
        return self.slots[number].running.partition(":")[0] == point

    def kills_at(self, point: str) -> int:
        """Counted or not."""
        return self.ends.counted[point] + self.ends.in_vain[point]

    def kill(self, number: int, point: str = RANDOM) -> bool:
        """kill -9, counted if the worker has scored; then it is started again. False as well if it was gone already."""
        with self._lock:
            slot = self.slots[number]
            if slot.process is None or not slot.alive:
                return False
            slot.process.kill()
            slot.process.wait(30)
            return self._count(slot, point)

    def wait_scored(self, number: int, what: str = "a worker's first score") -> None:
        """Until the worker in the slot has scored since its start."""
        wait_until(lambda: self.tail.has_scored(number), WAIT_S, f"{what}, slot {number}", self.check)

    def wait_flow(self, what: str, timeout_s: float = WAIT_S) -> None:
        """Until anybody scores from now on."""
        now_ms = time.time() * 1000
        wait_until(lambda: self.tail.last_ms > now_ms, timeout_s, f"a score after {what}", self.check)

    def check(self) -> None:
        """Raises when workers only say that something is missing."""
        if self.ends.not_ready_in_a_row > 40:
            raise Stuck(f"workers end again and again: {dict(self.ends.codes.most_common(5))}")

    def ends_saying(self, words: str) -> int:
        """How many workers have ended with these words so far."""
        return sum(n for why, n in self.ends.codes.items() if words in why)

    def working(self) -> list[psutil.Process]:
        found = []
        for slot in list(self.slots.values()):
            if slot.process is not None and slot.alive:
                try:
                    found.append(psutil.Process(slot.process.pid))
                except psutil.NoSuchProcess:
                    continue
        return found

    def close(self) -> None:
        self._ended.set()
        self._keeper.join(10)
        for slot in self.slots.values():
            slot.wanted = False
            if slot.process is not None and slot.alive:
                slot.process.kill()
                slot.process.wait()
            if slot.file is not None:
                slot.file.close()

    # the keeper

    def _keep(self) -> None:
        while not self._ended.wait(0.03):
            with self._lock:
                for slot in self.slots.values():
                    if slot.process is not None and not slot.alive:
                        self._take_note(slot)
                    if slot.process is None and slot.wanted and time.monotonic() > slot.not_before:
                        self._begin(slot)
                    self._recovered(slot)

    def _begin(self, slot: Slot) -> None:
        if slot.file is None:
            slot.file = slot.log.open("ab")
        slot.running = slot.armed.popleft() if slot.armed else ""
        slot.said_from = slot.log.stat().st_size
        armed = {"RISKFLOW_KILL_AT": slot.running} if slot.running else {}
        self.tail.began(slot.number)
        slot.process = supervise.start(
            self.usecase, slot.number, stderr=slot.file, **self._environment, **slot.environment, **armed
        )

    def _take_note(self, slot: Slot) -> None:
        """A worker that ended by itself, or at the point that it was armed for."""
        assert slot.process is not None
        code = slot.process.returncode
        if code == -signal.SIGKILL and slot.running:
            self._count(slot, slot.running.partition(":")[0])
            return
        slot.process = None
        if not slot.wanted:
            return
        if slot.running:
            slot.armed.appendleft(slot.running)
        slot.not_before = time.monotonic() + (AGAIN_S if code == NOT_READY else 0.0)
        self.ends.not_ready_in_a_row = self.ends.not_ready_in_a_row + 1 if code == NOT_READY else 0
        self.ends.codes[f"{code}: {self._why(slot)}"] += 1

    def _count(self, slot: Slot, point: str) -> bool:
        counted = self._has_scored(slot)
        (self.ends.counted if counted else self.ends.in_vain)[point] += 1
        alone = sum(s.alive or s.process is not None for s in self.slots.values()) == 1
        slot.died_ms = time.time() * 1000 if counted and alone else 0.0
        slot.process = None
        slot.not_before = 0.0
        if slot.wanted:
            self._begin(slot)
        return counted

    def _has_scored(self, slot: Slot) -> bool:
        """Its last scores may be on their way to us."""
        until = time.monotonic() + 0.5
        while not self.tail.has_scored(slot.number) and time.monotonic() < until:
            time.sleep(0.02)
        return self.tail.has_scored(slot.number)

    def _recovered(self, slot: Slot) -> None:
        first_ms = self.tail.of(slot.number).first_ms
        if first_ms:
            self.ends.not_ready_in_a_row = 0
        if slot.died_ms and first_ms > slot.died_ms:
            self.ends.recovery_s.append((first_ms - slot.died_ms) / 1000)
            slot.died_ms = 0.0

    def _why(self, slot: Slot) -> str:
        """What it said last, without numbers, so that the same reasons count together."""
        with slot.log.open("rb") as file:
            file.seek(slot.said_from)
            said = file.read().decode(errors="replace")
        reasons = REASON.findall(said) or said.strip().splitlines()[-1:] or ["said nothing"]
        return re.sub(r"0x[0-9a-f]+|\d+", "N", reasons[-1][:400])


def wait_until(condition: object, timeout_s: float, what: str, check: object = None) -> None:
    """Polls until the condition holds; raises Stuck naming what was waited for."""
    until = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        if check is not None:
            check()  # type: ignore[operator]
        if time.monotonic() > until:
            raise Stuck(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.05)
