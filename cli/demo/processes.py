"""The demo's own processes beside the services: worker, web API, Airflow's keeper. Each ends with the demo, however."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cli.demo.keeper import POLITE
from ops import process
from riskflow.errors import NotReady, RiskflowError
from riskflow.settings import PROJECT

RISKFLOW = [sys.executable, "-m", "cli.main"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # of a training: several with as many threads as cores wait for each other
LOG_LINES = 5


def launch(home: Path, name: str, *words: str, **environment: str) -> process.Record:
    """`riskflow WORDS` in the background, its log under HOME/logs; the guard ends it if this process is killed."""
    variables = {"PYTHONPATH": str(PROJECT), **environment}
    return process.launch(home, name, [*RISKFLOW, *words], environment=variables, owner=process.me())


def wait_for(
    what: str, condition: Callable[[], bool], timeout_s: float, *, home: Path, alive: process.Record | None = None
) -> None:
    """Until it holds; NotReady with the end of the log when the process has ended or time is up."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        ended = alive is not None and not alive.alive()
        if ended or time.monotonic() > deadline:
            why = "ended" if ended else f"is not there after {timeout_s:.0f} s"
            raise NotReady(f"{what} {why}. {log_end(home, alive.name) if alive else ''}")
        time.sleep(0.2)


def log_end(home: Path, name: str) -> str:
    path = process.log_file(home, name)
    lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:] if path.exists() else []
    return "\n".join([f"The end of {path}:", *lines])


def fetched(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


class Keeper:
    """Starts Airflow in a process of its own, so that nothing waits for it; ends it when told, or with this process."""

    def __init__(self, home: Path) -> None:
        command = [sys.executable, "-m", "cli.demo.keeper", str(home)]
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        with process.log_file(home, "keeper").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True
            )
        self._home = home

    def address(self) -> str:
        """Waits until Airflow is well; returns its address."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if not line:
            raise NotReady(f"Airflow did not start. {log_end(self._home, 'keeper')}")
        return line

    def let_go(self) -> None:
        """Closing its input tells it to end; nothing waits for it yet."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stop(self) -> None:
        """Tells it to end, and waits until it has."""
        self.let_go()
        self._process.wait()


class Command:
    """A `riskflow` command that reports on standard error and ends with a line of JSON."""

    def __init__(self, words: list[str], tell: Callable[[str], None]) -> None:
        import threading

        env = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(PROJECT)}
        self._process = subprocess.Popen(
            [*RISKFLOW, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        psutil.Process(self._process.pid).nice(POLITE)
        self._words, self._tell, self._said = words, tell, ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def running(self) -> bool:
        return self._process.poll() is None

    def result(self) -> dict[str, Any]:
        """The last line; RiskflowError with what the command said when it failed."""
        assert self._process.stdout is not None
        out = self._process.stdout.read()
        self._reader.join(10)
        if self._process.wait() != 0:
            raise RiskflowError(f"`riskflow {' '.join(self._words)}` failed: {self._said}")
        return dict(json.loads(out.strip().splitlines()[-1]))

    def stop(self) -> None:
        if self.running():
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = line.strip()
            self._tell(self._said)
