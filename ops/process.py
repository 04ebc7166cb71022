"""Background processes with a record on disk: any later command finds, signals or stops them, and never a stranger.

A record names the process id and its start time, so an id that the system gave to somebody else is left alone. Each
process leads its own session; what it starts belongs to it and ends with it. A record may name an owner: the process
whose end, however it comes, takes this one with it (ops/guard.py sees to that).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from riskflow.errors import NotReady

POLL_S = 0.05
CLOCK_SLACK_S = 2.0  # the start time is computed from the boot time, which moves when the clock is set

# Children of this very process, kept so that they can be reaped and are not reported as forgotten.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Identity:
    """One process of this machine, told apart from a later one with the same id."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        if self.pid in _children:
            _children[self.pid].poll()
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK_SLACK_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class Record:
    """What is written about a process when it starts."""

    name: str
    process: Identity
    port: int = 0
    stop_signal: int = signal.SIGTERM
    owner: Identity | None = None

    def alive(self) -> bool:
        return self.process.alive()


def me() -> Identity:
    return Identity.of(os.getpid())


# Records


def runs(home: Path) -> Path:
    folder = home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def log_file(home: Path, name: str) -> Path:
    folder = home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


def write(home: Path, record: Record) -> None:
    """Write whole or not at all: a reader never sees half a record."""
    path = runs(home) / f"{record.name}.json"
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(path)


def forget(home: Path, name: str) -> None:
    (runs(home) / f"{name}.json").unlink(missing_ok=True)


def records(home: Path) -> dict[str, Record]:
    """All records of a home by name, dead processes included."""
    if not (home / "run").is_dir():
        return {}
    found = (_read(path) for path in sorted((home / "run").glob("*.json")))
    return {record.name: record for record in found if record}


def _read(path: Path) -> Record | None:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    owner = Identity(**value["owner"]) if value["owner"] else None
    return Record(value["name"], Identity(**value["process"]), value["port"], value["stop_signal"], owner)


def disown(home: Path, record: Record) -> None:
    write(home, replace(record, owner=None))


# Starting and stopping


def launch(
    home: Path,
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    port: int = 0,
    stop_signal: int = signal.SIGTERM,
    owner: Identity | None = None,
) -> Record:
    """Start a command in its own session with its log under HOME/logs, and write its record."""
    with log_file(home, name).open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    _children[child.pid] = child
    record = Record(name, Identity.of(child.pid), port, stop_signal, owner)
    write(home, record)
    return record


def members(record: Record) -> list[int]:
    """Living processes of the record's session: the leader and all it started, also when the leader is dead."""
    leader = record.process
    if psutil.pid_exists(leader.pid) and not leader.alive() and not _is_zombie(leader.pid):
        return []  # the id belongs to somebody else now
    return [pid for pid in psutil.pids() if _session(pid) == leader.pid and not _is_zombie(pid)]


def listens(record: Record, port: int) -> bool:
    """Whether one of the record's processes, and not somebody else's, accepts connections at a port."""
    return any(
        c.status == psutil.CONN_LISTEN and c.laddr.port == port for pid in members(record) for c in _sockets(pid)
    )


def _sockets(pid: int) -> list[Any]:
    try:
        return psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return []


def send(record: Record, number: int) -> None:
    """Send a signal to every process of the record."""
    for pid in members(record):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop(home: Path, stopping: Sequence[Record], patience_s: float = 12.0) -> None:
    """Ask all of them at once, wait, then insist; afterwards none of their processes is left, nor a record."""
    for record in stopping:
        _ask(record)
    deadline = time.monotonic() + patience_s
    for record in stopping:
        if not wait_gone(record, deadline - time.monotonic()):
            send(record, signal.SIGKILL)
            wait_gone(record, 5.0)
        forget(home, record.name)


def wait_gone(record: Record, timeout_s: float) -> bool:
    """True when no process of the record is left within the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        if not members(record):
            _reap(record.process.pid)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)


def _ask(record: Record) -> None:
    """The leader stops its own children; a paused one must be woken to hear it. Without a leader there is no manner."""
    if not record.alive():
        send(record, signal.SIGKILL)
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.process.pid, record.stop_signal)
    send(record, signal.SIGCONT)


def _reap(pid: int) -> None:
    """A child that has ended is buried, so that no zombie stays."""
    if pid in _children:
        _children.pop(pid).wait()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return -1


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# One change at a time


@contextlib.contextmanager
def locked(home: Path, timeout_s: float = 180.0) -> Iterator[None]:
    """Only one command changes a home at a time; the system frees the lock of a killed one."""
    with (runs(home) / "lock").open("w") as handle:
        deadline = time.monotonic() + timeout_s
        while not _try_lock(handle.fileno()):
            if time.monotonic() > deadline:
                raise NotReady(
                    f"another command has been starting or stopping services in {home} for {timeout_s:.0f} s"
                )
            time.sleep(POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
