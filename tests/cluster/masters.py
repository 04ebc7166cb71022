"""A Redis Cluster on this machine: three masters without replicas, in a folder and on ports of their own."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from ops import ports
from ops.redis import executable
from tests.support import wait

SLOTS = 16384
BUS = 10_000  # the port of a node plus this is its cluster bus


class Masters:
    """Its processes; any of them can be killed and started again."""

    def __init__(self, folder: Path, number: int = 3) -> None:
        self.folder = folder
        self.ports = _free_ports(number)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Two of the nodes: the third is found through them."""
        return "redis+cluster://" + ",".join(f"{ports.HOST}:{port}" for port in self.ports[:2])

    def start(self, port: int) -> None:
        """Every write is on disk before it is answered, so a killed master comes back with all of them."""
        home = self.folder / str(port)
        home.mkdir(exist_ok=True)
        options = {
            "port": str(port), "bind": ports.HOST, "dir": str(home), "cluster-enabled": "yes", "appendonly": "yes",
            "appendfsync": "always", "save": "", "cluster-node-timeout": "2000", "logfile": "log",
        }  # fmt: skip
        flags = [word for key, value in options.items() for word in (f"--{key}", value)]
        self.processes[port] = subprocess.Popen([executable(), *flags])
        wait(lambda: _answers(port), 20)

    def kill(self, port: int) -> None:
        self.processes[port].kill()
        self.processes[port].wait()

    def join(self) -> None:
        """All slots to the masters, in equal parts."""
        bounds = [i * SLOTS // len(self.ports) for i in range(len(self.ports) + 1)]
        for port, first, end in zip(self.ports, bounds, bounds[1:], strict=False):
            with node(port) as one:
                one.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
                one.execute_command("CLUSTER", "MEET", ports.HOST, self.ports[0])
        wait(lambda: all(_is_whole(port, len(self.ports)) for port in self.ports), 30)

    def keys(self) -> dict[int, int]:
        """Port -> how many keys stand there."""
        return {port: _size(port) for port in self.ports}

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextmanager
def running(folder: Path) -> Iterator[Masters]:
    """Three masters for the length of a block."""
    masters = Masters(folder)
    try:
        for port in masters.ports:
            masters.start(port)
        masters.join()
        yield masters
    finally:
        masters.stop()


def node(port: int) -> Redis:
    return Redis(ports.HOST, port, socket_timeout=5)


def _free_ports(number: int) -> list[int]:
    candidates = (port for port in random.SystemRandom().sample(range(20_000, 30_000), 1000))
    free = (port for port in candidates if ports.free(port) and ports.free(port + BUS))
    return [next(free) for _ in range(number)]


def _answers(port: int) -> bool:
    try:
        with node(port) as one:
            return bool(one.ping())
    except RedisError:
        return False


def _is_whole(port: int, number: int) -> bool:
    """Whether a node knows all others, and who has every slot."""
    with node(port) as one:
        found = one.cluster("info")
    return found["cluster_state"] == "ok" and int(found["cluster_known_nodes"]) == number


def _size(port: int) -> int:
    with node(port) as one:
        return int(one.dbsize())
