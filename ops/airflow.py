"""Airflow on one machine: scheduler, DAG processor and API server on SQLite, each in its own session.

`airflow standalone` leaves orphans when it is stopped, so the three parts are started here one by one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

from ops import ports
from ops.service import Part, Service
from riskflow.errors import NotReady
from riskflow.settings import PROJECT, load

# The scheduler's own server of logs would listen on every interface; on one machine the files are read directly.
PARTS = {
    "airflow-api": "api-server",
    "airflow-scheduler": "scheduler --skip-serve-logs",
    "airflow-dags": "dag-processor",
}
WAKE_S = 20
SECRETS = ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__CORE__FERNET_KEY")


def prepare(home: Path, port: int) -> None:
    """Write secrets and users once, and bring the database to this Airflow's version."""
    folder = home / "airflow"
    folder.mkdir(parents=True, exist_ok=True)
    settings = load()
    users = {settings.airflow_user: settings.airflow_password.get_secret_value()}
    write_private(folder / "passwords.json", json.dumps(users))
    if not (folder / "secrets.json").exists():
        keys = {name: new_key() for name in SECRETS}
        write_private(folder / "secrets.json", json.dumps(keys))
    _migrate(home, port)


def parts(home: Path, port: int) -> list[Part]:
    """SIGINT is the signal on which all three end with their children."""
    variables = environment(home, port)
    return [Part(name, [executable(), *command.split()], variables, signal.SIGINT) for name, command in PARTS.items()]


def environment(home: Path, port: int) -> dict[str, str]:
    """Everything Airflow reads; with it any `airflow` command works on this home."""
    folder = home / "airflow"
    url = address(port)
    keys = json.loads((folder / "secrets.json").read_text()) if (folder / "secrets.json").exists() else {}
    return {
        "RISKFLOW_HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "",  # each task is a process: half of its time would be compiling modules
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(load().dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "ops.warm_executor.WarmExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{load().airflow_user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "AIRFLOW__API__HOST": ports.HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",  # a task waits so long for the one before it
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        # Tasks train side by side: with as many threads as cores each, they wait for one another.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        **keys,
    }


def address(port: int) -> str:
    return f"http://{ports.HOST}:{port}"


def problem(url: str) -> str | None:
    """Why Airflow cannot run a DAG yet; None when API, database, scheduler and DAG processor are all well."""
    _wake(url)
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/api/v2/monitor/health", timeout=3) as answer:
            health = json.load(answer)
    except (OSError, ValueError) as error:
        return f"{url}: {error}"
    needed = ("metadatabase", "scheduler", "dag_processor")
    ill = [part for part in needed if (health.get(part) or {}).get("status") != "healthy"]
    return f"{url}: not healthy: {', '.join(ill)}" if ill else None


def _wake(url: str) -> None:
    """The part of the API that tasks talk to is built when it is first asked, which takes 3 s of CPU: here, so that the
    first task need not wait for it. It may run elsewhere, so no answer is no fault.
    """
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{url.rstrip('/')}/execution/health", timeout=WAKE_S).close()


def executable() -> str:
    found = Path(sys.executable).parent / "airflow"
    if not found.exists():
        raise NotReady(f"Airflow is not installed beside {sys.executable}. Run: make setup, or use --no-airflow")
    return str(found)


def _migrate(home: Path, port: int) -> None:
    """Bring the database to this version. It is made once for a checkout (10 s of CPU) and copied to further homes."""
    stamp = home / "airflow" / "migrated"
    if stamp.exists() and stamp.read_text() == version("apache-airflow"):
        return
    database = home / "airflow" / "airflow.db"
    if not database.exists() and _empty_database().exists():
        shutil.copyfile(_empty_database(), database)
    else:
        fresh = not database.exists()
        _run_migration(home, port)
        if fresh:
            _keep_copy(database)
    stamp.write_text(version("apache-airflow"))


def _empty_database() -> Path:
    return PROJECT / ".riskflow" / f"airflow-{version('apache-airflow')}-empty.db"


def _run_migration(home: Path, port: int) -> None:
    variables = {**os.environ, **environment(home, port)}
    done = subprocess.run([executable(), "db", "migrate"], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(f"Airflow's database cannot be made:\n{(done.stdout + done.stderr)[-2000:]}")


def _keep_copy(database: Path) -> None:
    """A whole copy, write-ahead log included, put in place in one step: another command may look for it just now."""
    target = _empty_database()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(fresh)) as copy:
        source.backup(copy)
    fresh.replace(target)


def new_key() -> str:
    """32 random bytes in the form that Fernet wants and the others accept."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


SERVICE = Service("airflow", "RISKFLOW_AIRFLOW_URL", 8080, 120.0, prepare, parts, address, problem)
