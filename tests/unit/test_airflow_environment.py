"""What Airflow's processes are started with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ops import airflow


def threads(home: Path) -> set[str]:
    return {part.environment["OMP_NUM_THREADS"] for part in airflow.parts(home, 8080)}


def test_tasks_train_on_one_thread_unless_it_is_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow, "executable", lambda: "airflow")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads(tmp_path) == {"1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads(tmp_path) == {"3"}


def test_what_is_loaded_before_tasks_are_forked_starts_no_thread_and_is_none_of_our_code(tmp_path: Path) -> None:
    """A fork has only the thread that forks: a lock that another one holds would stay held in every task."""
    code = """
import importlib, json, os, sys
from ops.warm_executor import LIBRARIES
for name in LIBRARIES:
    importlib.import_module(name)
ours = {name.partition(".")[0] for name in sys.modules} & {"riskflow", "batch", "usecases", "stream", "cli"}
print(json.dumps([len(os.listdir("/proc/self/task")), sorted(ours)]))
"""
    environment = airflow.environment(tmp_path, 8080)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True,
        env={**environment, "PATH": "", "AIRFLOW_HOME": str(tmp_path)},
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == [1, []]
