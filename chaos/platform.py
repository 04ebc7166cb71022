"""Kafka and Redis of a run, in a folder of their own; workers reach both through a proxy, the harness does not.

Everything that can be done to the services is here: killed, emptied, set back by a second, replaced by a replica that
lags, out of disk space.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from chaos.proxy import Proxy
from ops import kafka, local, ports
from ops import redis as redis_service
from riskflow.settings import settings

KAFKA, REDIS = "kafka", "redis"
DISK = "6g"  # of a service whose disk can be filled; memory is taken only by what is written
LAG_S = 1.5


class Platform:
    """The services, and the address of each for workers and for the harness."""

    def __init__(self, home: Path, services: local.Services, proxy: Proxy, behind: int, small_disks: bool) -> None:
        self.home, self.services, self.proxy, self.small_disks = home, services, proxy, small_disks
        self._behind = behind  # the broker's port for those who come through the proxy

    @property
    def for_workers(self) -> dict[str, str]:
        """Environment of a worker."""
        return {
            kafka.SERVICE.variable: f"{ports.HOST}:{self.proxy.ports[KAFKA]}",
            redis_service.SERVICE.variable: f"redis://{ports.HOST}:{self.proxy.ports[REDIS]}/0",
        }

    def store(self) -> Any:
        return redis.Redis.from_url(self.services.redis_url, socket_timeout=30)

    def kill(self, name: str) -> None:
        local.kill(self.home, name)

    def start(self, name: str) -> None:
        local.start(self.home, name)

    def mend(self) -> None:
        """Everything answers again, whatever was done to it."""
        targets = {KAFKA: self._behind, REDIS: port_of(self.services.redis_url)}
        for name, target in targets.items():
            self.proxy.tell(name, stalled=False, delay_s=0.0, open=True, target=target)
            if self.small_disks:
                self.make_room(name)
            if self.problem(name):
                self.kill(name)
                self.start(name)

    def problem(self, name: str) -> str | None:
        """Why a service does not answer; None when it does."""
        found = {KAFKA: self.services.kafka, REDIS: self.services.redis_url}
        return local.SERVICES[name].problem(found[name])

    def lose_last_second(self) -> None:
        """Redis as after a crash of its machine: the file that it appends to ends where it did a second ago."""
        folder = self.home / "redis" / "appendonlydir"
        while True:
            file, size = _newest_file(folder)
            time.sleep(1.0)
            self.kill(REDIS)
            if _newest_file(folder)[0] == file:
                os.truncate(file, size)
                break
            self.start(REDIS)  # it began a new file meanwhile
        self.start(REDIS)

    def empty(self) -> None:
        self.store().flushall()

    def fail_over(self) -> None:
        """A replica that has not heard the last moments takes over; later the first one follows it and comes back."""
        replica_port = ports.choose()
        with _replica(self.home, replica_port, port_of(self.services.redis_url)) as replica:
            _wait(lambda: replica.info("replication").get("master_link_status") == "up")
            replica.replicaof("NO", "ONE")
            time.sleep(LAG_S)  # what the first one is told from now on is lost
            self.proxy.tell(REDIS, target=replica_port, reset=True)
            time.sleep(3.0)
            self._come_back(replica, replica_port)

    def _come_back(self, replica: Any, port: int) -> None:
        """A planned change: nothing is written until the first one has everything."""
        first = self.store()
        first.replicaof(ports.HOST, port)
        _wait(lambda: first.info("replication").get("master_link_status") == "up")
        replica.execute_command("CLIENT", "PAUSE", "20000", "WRITE")
        _wait(lambda: _offset(first, "slave_repl_offset") >= _offset(replica, "master_repl_offset"))
        first.replicaof("NO", "ONE")
        self.proxy.tell(REDIS, target=port_of(self.services.redis_url), reset=True)

    def fill_disk(self, name: str) -> None:
        """Leaves no more room where a service writes than 64 KiB."""
        found = os.statvfs(self.home / name)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        _resize(self.home / name, str(used + 64 * 1024))

    def make_room(self, name: str) -> None:
        _resize(self.home / name, DISK)


def port_of(redis_url: str) -> int:
    return int(redis_url.rpartition(":")[2].partition("/")[0])


@contextlib.contextmanager
def platform(tell: local.Tell, small_disks: bool = False) -> Iterator[Platform]:
    """Everything for a run; nothing of it is left afterwards. `settings()` names its services meanwhile."""
    with tempfile.TemporaryDirectory(prefix="riskflow-chaos-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        stack.enter_context(_environment(**dict.fromkeys((s.variable for s in local.SERVICES.values()), None)))
        if small_disks:
            small_disks = all(stack.enter_context(_small_disk(home / name)) for name in (KAFKA, REDIS))
        behind, advertised = ports.choose(), ports.choose()
        kafka.behind_proxy(home, behind, advertised)  # Kafka's clients go on where the broker tells them to
        services = stack.enter_context(local.running(home, airflow=False, usual_ports=False, tell=tell))
        stack.enter_context(_environment(**services.environment()))
        proxy = Proxy({KAFKA: (advertised, behind), REDIS: (ports.choose(), port_of(services.redis_url))})
        stack.callback(proxy.close)
        yield Platform(home, services, proxy, behind, small_disks)


@contextlib.contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """Variables of this process; None takes one away."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    settings.cache_clear()


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own at a folder; False where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def _replica(home: Path, port: int, of: int) -> Iterator[Any]:
    """A second redis-server that follows the first one."""
    folder = home / f"replica-{port}"
    folder.mkdir()
    options = ["--bind", ports.HOST, "--port", str(port), "--dir", str(folder), "--save", "", "--replicaof", ports.HOST]
    command = [redis_service.executable(), *options, str(of), "--maxmemory-policy", "noeviction"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(lambda: ports.answers(ports.HOST, port, 0.2))
        with redis.Redis(port=port, socket_timeout=30) as client:
            yield client
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _newest_file(folder: Path) -> tuple[Path, int]:
    found = sorted(folder.glob("*.incr.aof"), key=lambda p: int(p.name.split(".")[-3]))
    return found[-1], found[-1].stat().st_size


def _offset(client: Any, name: str) -> int:
    return int(client.info("replication")[name])


def _resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def _wait(condition: Any, timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("Redis' replica did not come")
        time.sleep(0.05)
