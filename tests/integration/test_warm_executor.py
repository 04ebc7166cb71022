"""What Airflow's workers have loaded before tasks are forked from them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ops import airflow


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
