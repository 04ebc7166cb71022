"""Keeps one worker running in a stable slot: starts it again after an unexpected end, stops it within 20 s.

The slot is its static member id in Kafka's group, so a worker that comes back gets its partitions at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from riskflow.errors import NotReady
from riskflow.settings import PROJECT, settings

STOP_S = 18.0
SLOTS = 1024
RESTARTS_AT_ONCE = 1  # the first restart does not wait
LONGEST_WAIT_S = 10.0
NOT_READY, INTERRUPTED = 3, 130


class Slot:
    """A number that no other worker on this machine has, held by a file lock for as long as the process lives."""

    def __init__(self, usecase: str, number: int | None) -> None:
        folder = settings().home / "slots"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = range(SLOTS) if number is None else [number]
        for n in wanted:
            file = self._lock(folder / f"{usecase}.{n}.lock")
            if file is not None:
                self.number, self._file = n, file
                return
        raise NotReady(f"slot {number if number is not None else 'any'} of {usecase} is taken by a running worker")

    @staticmethod
    def _lock(path: Path) -> IO[str] | None:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file


def supervise(usecase: str, slot: int | None, *, beside: bool = False) -> int:
    """Runs the worker until it is told to stop (0), or finds something missing (3).

    beside: it works on the generation that `riskflow rebuild --beside` made, until that is the only one.
    """
    held = Slot(usecase, slot)
    stopping: list[int] = []
    child: list[subprocess.Popen[bytes]] = []

    def stop(signum: int, _frame: object) -> None:
        stopping.append(signum)
        if child and child[0].poll() is None:
            child[0].send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    restarts = 0
    while not stopping:
        started = time.monotonic()
        child[:] = [start(usecase, held.number, **({"RISKFLOW_BESIDE": "1"} if beside else {}))]
        code = _wait(child[0], stopping)
        if stopping or code == NOT_READY:
            return code if code == NOT_READY and not stopping else 0
        restarts = 0 if time.monotonic() - started > 60 else restarts + 1
        print(f"riskflow: worker in slot {held.number} ended with {code}, starting it again", file=sys.stderr)
        if restarts > RESTARTS_AT_ONCE:
            time.sleep(min(LONGEST_WAIT_S, 0.5 * 2 ** (restarts - RESTARTS_AT_ONCE)))
    return 0


def start(usecase: str, slot: int, *, stderr: IO[bytes] | None = None, **environment: str) -> subprocess.Popen[bytes]:
    """One worker process, by Faust's own command; it dies with its supervisor."""
    command = [
        sys.executable,
        "-m",
        "faust",
        "-L",
        "uvloop",
        "-A",
        "stream.app",
        "worker",
        "-l",
        "warn",
        "--without-web",
    ]
    env = {**os.environ, "RISKFLOW_USECASE": usecase, "RISKFLOW_SLOT": str(slot), **environment}
    # Where this is set, every start compiles all modules again: 2.3 s of CPU, and a start is part of every recovery.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    out = subprocess.DEVNULL if stderr is not None else None
    return subprocess.Popen(command, cwd=PROJECT, env=env, stdout=out, stderr=stderr, preexec_fn=_die_with_parent)


def _die_with_parent() -> None:
    """Linux sends SIGKILL to the child when its parent is gone; elsewhere this does nothing."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        return


def _wait(child: subprocess.Popen[bytes], stopping: list[int]) -> int:
    deadline: float | None = None
    while True:
        try:
            return child.wait(0.2)
        except subprocess.TimeoutExpired:
            if stopping:
                deadline = deadline or time.monotonic() + STOP_S
                if time.monotonic() > deadline:
                    child.kill()
