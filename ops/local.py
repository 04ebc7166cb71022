"""The local platform: Kafka, Redis and Airflow as processes of this machine, everything under one folder.

    up(home)                     start what does not run yet, leave it in the background
    running(home)                the same for the length of a `with` block; the end of this process ends them too
    down(home), status(home)     stop all of it; say what runs and where
    stop, kill, pause, resume, start, restart (home, name)     one service, again on the same port with the same data

A service whose address is given in the environment is not started; `up` only looks whether it answers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ops import airflow, kafka, ports, process, redis
from ops.guard import guarding
from ops.process import Record
from ops.service import Service
from riskflow.errors import NotReady
from riskflow.settings import home_folder, load

SERVICES = {service.name: service for service in (kafka.SERVICE, redis.SERVICE, airflow.SERVICE)}
TRIES = 3  # somebody may take a free port before our process does

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Services:
    """Where everything is. `airflow_url` is None when Airflow was left out."""

    home: Path
    kafka: str
    redis_url: str
    airflow_url: str | None = None

    def environment(self) -> dict[str, str]:
        """What another process needs in its environment to use exactly these services."""
        values = {
            "RISKFLOW_HOME": str(self.home),
            kafka.SERVICE.variable: self.kafka,
            redis.SERVICE.variable: self.redis_url,
        }
        return {**values, airflow.SERVICE.variable: self.airflow_url} if self.airflow_url else values


@dataclass(frozen=True)
class State:
    """One line of `riskflow status`."""

    name: str
    address: str
    origin: str  # local, environment, or none
    pids: list[int]
    problem: str | None

    @property
    def running(self) -> bool:
        return self.origin != "none" and self.problem is None


def _quiet(line: str) -> None:
    """Say nothing."""


# All services


def up(
    home: Path | None = None,
    airflow: bool = True,
    *,
    usual_ports: bool = True,
    tell: Tell = _quiet,
) -> Services:
    """Start what does not run yet and leave it running. Whatever ends this before it is done leaves nothing behind."""
    home = _home(home)
    with guarding(home, process.me()):
        services, launched = _up(home, airflow, usual_ports, tell)
        for name in launched:
            process.disown(home, process.records(home)[name])
    return services


@contextlib.contextmanager
def running(
    home: Path | None = None,
    airflow: bool = True,
    *,
    usual_ports: bool = True,
    tell: Tell = _quiet,
) -> Iterator[Services]:
    """Services for the length of a block: what this starts ends with the block, or with this process."""
    home = _home(home)
    with guarding(home, process.me()):
        services, launched = _up(home, airflow, usual_ports, tell)
        try:
            yield services
        finally:
            with process.locked(home):
                _stop(home, launched)


def down(home: Path | None = None) -> list[str]:
    """Stop every process this home started; returns their names."""
    home = _home(home)
    if not (home / "run").is_dir():
        return []
    with process.locked(home):
        names = list(process.records(home))
        _stop(home, names)
    return names


def status(home: Path | None = None) -> list[State]:
    """Each service: where it is, who started it, and whether it answers."""
    home = _home(home)
    return [_state(home, service) for service in SERVICES.values()]


# One service, by name: kafka, redis, airflow


def stop(home: Path, name: str) -> None:
    """Stop in good manners; `start` finds the same port and data again."""
    _signal_and_keep(home, name, None)


def kill(home: Path, name: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to all processes of a service; a deadly one is waited for."""
    _signal_and_keep(home, name, number)


def pause(home: Path, name: str) -> None:
    """Freeze: connections stay open, nothing answers."""
    _signal_and_keep(home, name, signal.SIGSTOP)


def resume(home: Path, name: str) -> None:
    _signal_and_keep(home, name, signal.SIGCONT)


def start(home: Path, name: str) -> None:
    """Start a service that was stopped or killed, on the same port, for the same owner."""
    with process.locked(home):
        before = _records_of(home, name)
        service = SERVICES[name]
        first = next(iter(before.values()))
        _launch(home, service, first.port, first.owner)
        _wait(home, service, first.port)
        write_addresses(home)


def restart(home: Path, name: str) -> None:
    stop(home, name)
    start(home, name)


def _signal_and_keep(home: Path, name: str, number: int | None) -> None:
    """Signal a service's processes and keep their records, which remember port and owner for `start`."""
    found = _records_of(home, name)
    if number is None:
        process.stop(home, list(found.values()))
    for record in found.values():
        if number is not None:
            process.send(record, number)
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            process.wait_gone(record, 15.0)
        process.write(home, record)


def _records_of(home: Path, name: str) -> dict[str, Record]:
    found = {key: record for key, record in process.records(home).items() if key.split("-")[0] == name}
    if not found:
        raise NotReady(f"{name} was not started in {home}. Run: riskflow up")
    return found


# The work


def _up(home: Path, airflow: bool, usual_ports: bool, tell: Tell) -> tuple[Services, list[str]]:
    load()  # a wrong value in the environment is told before anything starts
    wanted = [service for service in SERVICES.values() if airflow or service.name != "airflow"]
    with process.locked(home):
        launched: list[str] = []
        try:
            addresses = _start_all(home, wanted, usual_ports, tell, launched)
        except BaseException:
            _stop(home, launched)
            raise
        write_addresses(home)
    services = Services(home, addresses["kafka"], addresses["redis"], addresses.get("airflow"))
    return services, launched


def _start_all(home: Path, wanted: list[Service], usual: bool, tell: Tell, launched: list[str]) -> dict[str, str]:
    """Launch all, then wait for all: they start side by side. Names go to `launched` before they run."""
    addresses, waiting = {}, []
    for service in wanted:
        given = os.environ.get(service.variable)
        record = _alive(home, service)
        if given:
            addresses[service.name] = _check_given(service, given, tell)
        elif record:
            addresses[service.name] = service.address(record.port)
            _wait(home, service, record.port)
            tell(f"{service.name} runs already: {addresses[service.name]}")
        else:
            port = ports.choose(service.usual_port if usual else None)
            launched += [part.name for part in service.parts(home, port)]
            _launch(home, service, port, process.me(), tell)
            waiting.append((service, port))
    for service, port in waiting:
        addresses[service.name] = service.address(_settle(home, service, port))
        tell(f"{service.name} runs: {addresses[service.name]}")
    return addresses


def _check_given(service: Service, address: str, tell: Tell) -> str:
    problem = service.problem(address)
    if problem:
        raise NotReady(
            f"{service.variable} is set in the environment and does not answer: {problem}. "
            f"Start that service, or unset {service.variable} to use a local one"
        )
    tell(f"{service.name} is given by {service.variable}: {address}")
    return address


def _launch(home: Path, service: Service, port: int, owner: process.Identity | None, tell: Tell = _quiet) -> None:
    tell(f"{service.name} starts ...")
    service.prepare(home, port)
    for part in service.parts(home, port):
        process.launch(
            home,
            part.name,
            part.command,
            environment=part.environment,
            port=port,
            stop_signal=part.stop_signal,
            owner=owner,
        )


def _settle(home: Path, service: Service, port: int) -> int:
    """Wait until the service answers; if somebody was quicker at its port, try another one. Returns the port."""
    for _ in range(TRIES - 1):
        try:
            _wait(home, service, port)
            return port
        except NotReady:
            if not _lost_port(home, service):
                raise
            process.stop(home, list(_records_of(home, service.name).values()))
            port = ports.choose()
            _launch(home, service, port, process.me())
    _wait(home, service, port)
    return port


def _wait(home: Path, service: Service, port: int) -> None:
    """Until the service answers; a process that ended or the end of patience is told with the end of its log."""
    deadline = time.monotonic() + service.start_s
    while problem := _not_ours(home, service, port) or service.problem(service.address(port)):
        found = list(_records_of(home, service.name).values())
        dead = [record for record in found if not record.alive()]
        if dead:
            raise NotReady(f"{dead[0].name} ended while starting. {_log_end(home, dead[0].name)}")
        if time.monotonic() > deadline:
            log = _log_end(home, found[0].name)
            raise NotReady(f"{service.name} does not answer after {service.start_s:.0f} s: {problem}. {log}")
        time.sleep(0.1)


def _not_ours(home: Path, service: Service, port: int) -> str | None:
    """Somebody else's service may answer at a port that ours could not get."""
    ours = any(process.listens(record, port) for record in _records_of(home, service.name).values())
    return None if ours else f"it does not listen on port {port} yet"


def _lost_port(home: Path, service: Service) -> bool:
    text = "".join(_log_end(home, name) for name in _records_of(home, service.name))
    return any(words in text for words in ("Address already in use", "BindException", "address already in use"))


def _log_end(home: Path, name: str, lines: int = 15) -> str:
    path = process.log_file(home, name)
    text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
    return f"The end of {path}:\n" + "\n".join(text)


def _stop(home: Path, names: list[str]) -> None:
    """Airflow first: its tasks may be talking to the others."""
    found = process.records(home)
    for first in (True, False):
        process.stop(home, [found[n] for n in names if n in found and n.startswith("airflow") is first])
    write_addresses(home)


def _alive(home: Path, service: Service) -> Record | None:
    """The service's record when all its processes live; half of a service is stopped so that it can start whole."""
    found = [record for name, record in process.records(home).items() if name.split("-")[0] == service.name]
    if found and all(record.alive() for record in found):
        return found[0]
    process.stop(home, found)
    return None


def _state(home: Path, service: Service) -> State:
    found = [record for name, record in process.records(home).items() if name.split("-")[0] == service.name]
    pids = [record.process.pid for record in found if record.alive()]
    given = os.environ.get(service.variable)
    if given:
        return State(service.name, given, "environment", [], service.problem(given))
    if not found:
        return State(service.name, "", "none", [], "not started")
    address = service.address(found[0].port)
    return State(service.name, address, "local", pids, service.problem(address) if pids else "its process has ended")


def write_addresses(home: Path) -> None:
    """Tell every later command of this home where the services are; without any the file goes."""
    path = home / "services.env"
    lines = []
    for service in SERVICES.values():
        found = [record for name, record in process.records(home).items() if name.split("-")[0] == service.name]
        if found:
            lines.append(f"{service.variable}={service.address(found[0].port)}\n")
    if lines:
        path.write_text("".join(lines))
    else:
        path.unlink(missing_ok=True)


def _home(home: Path | None) -> Path:
    folder = (home or home_folder()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
