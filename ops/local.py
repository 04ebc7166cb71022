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
DEADLY = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
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


def airflow_command(words: list[str], home: Path | None = None) -> tuple[str, list[str], dict[str, str]]:
    """Program, words and environment of one of Airflow's own commands; NotReady where Airflow was never started."""
    home = _home(home)
    records = _records_of(home, airflow.SERVICE.name)
    if not records:
        raise NotReady("no Airflow was started here. Run: riskflow up")
    program = airflow.executable()
    return program, [program, *words], {**os.environ, **airflow.environment(home, records[0].port)}


# One service, by name: kafka, redis, airflow


def stop(home: Path, name: str) -> None:
    """Stop in good manners; `start` finds the same port and data again."""
    found = _records_of(home, name)
    process.stop(home, found)
    for record in found:
        process.write(home, record)  # it remembers port and owner


def kill(home: Path, name: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to all processes of a service; the end that a deadly one brings is waited for."""
    for record in _records_of(home, name):
        process.send(record, number)
        if number in DEADLY:
            process.wait_gone(record, 15.0)


def pause(home: Path, name: str) -> None:
    """Freeze: connections stay open, nothing answers."""
    kill(home, name, signal.SIGSTOP)


def resume(home: Path, name: str) -> None:
    kill(home, name, signal.SIGCONT)


def start(home: Path, name: str) -> None:
    """Start a service that was stopped or killed, on the same port, for the same owner."""
    with process.locked(home):
        before, service = _records_of(home, name)[0], SERVICES[name]
        _launch(home, service, before.port, before.owner)
        _wait(home, service, before.port)
        write_addresses(home)


def restart(home: Path, name: str) -> None:
    stop(home, name)
    start(home, name)


def _records_of(home: Path, name: str) -> list[Record]:
    found = _find(home, name)
    if not found:
        raise NotReady(f"{name} was not started in {home}. Run: riskflow up")
    return found


def _find(home: Path, name: str) -> list[Record]:
    """A service's records; those of Airflow's parts are called airflow-..."""
    return [record for key, record in process.records(home).items() if key.split("-")[0] == name]


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
    addresses: dict[str, str] = {}
    ports_of: dict[str, int] = {}
    for service in wanted:
        address = _given(service, tell) or _running(home, service, tell)
        if address:
            addresses[service.name] = address
            continue
        tell(f"{service.name} starts ...")
        port = ports_of[service.name] = ports.choose(service.usual_port if usual else None)
        launched += [part.name for part in service.parts(home, port)]
        _launch(home, service, port, process.me())
    for name, port in ports_of.items():
        addresses[name] = SERVICES[name].address(_settle(home, SERVICES[name], port))
        tell(f"{name} runs: {addresses[name]}")
    return addresses


def _given(service: Service, tell: Tell) -> str | None:
    """The address that the environment gives, when somebody answers there."""
    address = os.environ.get(service.variable)
    if not address:
        return None
    problem = service.problem(address)
    if problem:
        raise NotReady(
            f"{service.variable} is set in the environment and does not answer: {problem}. "
            f"Start that service, or unset {service.variable} to use a local one"
        )
    tell(f"{service.name} is given by {service.variable}: {address}")
    return address


def _running(home: Path, service: Service, tell: Tell) -> str | None:
    """The address at which it runs already; half of a service is stopped, so that it can start whole."""
    found = _find(home, service.name)
    if not found or not all(record.alive() for record in found):
        process.stop(home, found)
        return None
    _wait(home, service, found[0].port)
    address = service.address(found[0].port)
    tell(f"{service.name} runs already: {address}")
    return address


def _launch(home: Path, service: Service, port: int, owner: process.Identity | None) -> None:
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
            process.stop(home, _records_of(home, service.name))
            port = ports.choose()
            _launch(home, service, port, process.me())
    _wait(home, service, port)
    return port


def _wait(home: Path, service: Service, port: int) -> None:
    """Until the service answers; a process that ended or the end of patience is told with the end of its log."""
    deadline = time.monotonic() + service.start_s
    while problem := _not_ours(home, service, port) or service.problem(service.address(port)):
        found = _records_of(home, service.name)
        dead = [record for record in found if not record.alive()]
        if dead:
            raise NotReady(f"{dead[0].name} ended while starting. {_log_end(home, dead[0].name)}")
        if time.monotonic() > deadline:
            log = _log_end(home, found[0].name)
            raise NotReady(f"{service.name} does not answer after {service.start_s:.0f} s: {problem}. {log}")
        time.sleep(0.1)


def _not_ours(home: Path, service: Service, port: int) -> str | None:
    """Somebody else's service may answer at a port that ours could not get."""
    ours = any(process.listens(record, port) for record in _records_of(home, service.name))
    return None if ours else f"it does not listen on port {port} yet"


def _lost_port(home: Path, service: Service) -> bool:
    text = "".join(_log_end(home, record.name, lines=80) for record in _records_of(home, service.name))
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


def _state(home: Path, service: Service) -> State:
    found = _find(home, service.name)
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
    started = {service: _find(home, service.name) for service in SERVICES.values()}
    lines = [f"{s.variable}={s.address(found[0].port)}\n" for s, found in started.items() if found]
    if lines:
        path.write_text("".join(lines))
    else:
        path.unlink(missing_ok=True)


def _home(home: Path | None) -> Path:
    folder = (home or home_folder()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
