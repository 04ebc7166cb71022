"""The history of task runs: one JSON file for each try of each task, written as it begins and as it ends.

    runs/<use case>/<run>/tasks/<task>.<try>.json          <task>-<number>.<try>.json of a mapped one

    outcome   running, success, skipped, refused (would fail the same way again), failed

A process that was killed leaves `running`, unless Airflow notices and its callback says so. `riskflow runs list` shows
them.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from batch.files import write_text

RUNNING, SUCCESS, SKIPPED, REFUSED, FAILED = "running", "success", "skipped", "refused", "failed"
BAD = (REFUSED, FAILED)
MOST_CHARS = 20_000  # of a summary that is kept
NOTHING_TO_DO = 77  # exit code of `riskflow step` where the task is to be skipped

log = logging.getLogger(__name__)


class Skipped(Exception):
    """There was nothing to do; what waits for the task does not run."""


@dataclass(frozen=True)
class TaskRun:
    """One try of one task. Times are milliseconds since 1970."""

    usecase: str
    run: str  # the folder's name
    task: str
    dag: str = ""
    dag_run: str = ""  # as Airflow names it
    map_index: int = -1
    attempt: int = 1
    label: str = ""  # of a mapped one: its candidate, its day
    started_at_ms: int = 0
    seconds: float | None = None
    outcome: str = RUNNING
    error: str = ""
    summary: Any = None
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    @property
    def name(self) -> str:
        return self.task if self.map_index < 0 else f"{self.task}-{self.map_index}"

    def path(self, home: Path) -> Path:
        return home / "runs" / self.usecase / self.run / "tasks" / f"{self.name}.{self.attempt}.json"

    def write(self, home: Path) -> None:
        """In one step, so that whoever reads never sees half of it."""
        write_text(self.path(home), json.dumps(asdict(self), default=str) + "\n")

    @classmethod
    def read(cls, path: Path) -> TaskRun | None:
        """None where that is no such record."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None


class Ended:
    """What the body of a task says about its end: what it hands over, and which of the mapped ones it was."""

    summary: Any = None
    label: str = ""


@contextmanager
def recorded(home: Path, task: TaskRun) -> Iterator[Ended]:
    """Keeps when a task began, how it ended and what it handed over; what is raised goes on.

    A history that cannot be written is said in the log and stops no task.
    """
    begun = replace(task, started_at_ms=int(time.time() * 1000))
    started, ended, outcome, error = time.monotonic(), Ended(), SUCCESS, ""
    _keep(home, begun)
    try:
        yield ended
    except BaseException as raised:
        outcome, error = _outcome(raised), f"{type(raised).__name__}: {raised}"
        raise
    finally:
        seconds = round(time.monotonic() - started, 3)
        done = replace(begun, seconds=seconds, outcome=outcome, error=error, label=ended.label or begun.label)
        _keep(home, replace(done, summary=_small(ended.summary)))
        log.info("task %s.%s of run %s: %s after %.1f s", task.dag, task.name, task.run, outcome, seconds)


def task_runs(home: Path, usecase: str) -> list[TaskRun]:
    """The newest try of each task of each run, in the order in which they began."""
    newest: dict[tuple[str, str], TaskRun] = {}
    for path in (home / "runs" / usecase).glob("*/tasks/*.json"):
        found = TaskRun.read(path)
        if found is not None and found.attempt >= newest.get((found.run, found.name), found).attempt:
            newest[found.run, found.name] = found
    return sorted(newest.values(), key=lambda t: (t.started_at_ms, t.name))


def failed_outside(home: Path, task: TaskRun, error: str) -> None:
    """Says of a task whose process could not say it that it failed."""
    there = TaskRun.read(task.path(home)) or task
    if there.outcome == RUNNING:
        _keep(home, replace(there, outcome=FAILED, error=error))


def _outcome(raised: BaseException) -> str:
    if isinstance(raised, Skipped):
        return SKIPPED
    return REFUSED if getattr(raised, "final", False) else FAILED


def _keep(home: Path, task: TaskRun) -> None:
    try:
        task.write(home)
    except OSError as error:
        log.error("the history of task %s cannot be written: %s", task.name, error)


def _small(summary: Any) -> Any:
    text = json.dumps(summary, default=str)
    return summary if len(text) <= MOST_CHARS else {"cut": text[:MOST_CHARS]}
