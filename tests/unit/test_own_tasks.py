"""A team's own task, and what a step in a pod hands over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batch.steps import Asked
from batch.task_runs import REFUSED, SUCCESS, task_runs
from riskflow.settings import PROJECT, settings

TASKS = """
def check_segments(run, fewest):
    return {"usecase": run.plan.name, "folder": run.folder.name, "fewest": fewest}
"""
PIPELINE = """
tasks:
  - {name: look, call: usecases.card_fraud.tasks.check_segments, after: judge, args: {fewest: 3}}
  - {name: lost, call: usecases.card_fraud.tasks.nowhere, after: judge}
"""
LOOK, LOST = (Asked("card_fraud", "retrain", name, "manual__1").to_json() for name in ("look", "lost"))
FOUND = {"usecase": "card_fraud", "folder": "manual__1", "fewest": 3}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With a use case in a folder of the team's own."""
    shutil.copytree(settings().usecases / "card_fraud", tmp_path / "teams" / "card_fraud")
    (tmp_path / "teams" / "card_fraud" / "tasks.py").write_text(TASKS)
    (tmp_path / "teams" / "card_fraud" / "pipeline.yaml").write_text(PIPELINE)
    return tmp_path


def in_python(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: it reads other use cases than this one."""
    where = {"RISKFLOW_HOME": str(home), "RISKFLOW_USECASES": str(home / "teams"), "PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        [sys.executable, *words], cwd=PROJECT, env={**os.environ, **where}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


STEP = """
import sys
from pathlib import Path
from cli import runs
runs.XCOM = Path(sys.argv[1])
runs.step(sys.argv[2])
"""


def test_a_teams_own_task_gets_the_run_and_its_arguments_and_a_pod_hands_over_what_it_returns(home: Path) -> None:
    (home / "xcom").mkdir()
    handed = home / "xcom" / "return.json"  # in a pod Airflow's sidecar waits for it
    done = in_python(home, "-c", STEP, str(handed), LOOK)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(handed.read_text()) == json.loads(done.stdout.splitlines()[-1]) == FOUND
    (kept,) = task_runs(home, "card_fraud")
    assert (kept.task, kept.outcome, kept.summary) == ("look", SUCCESS, FOUND)


def test_a_function_that_is_not_there_is_named_and_not_tried_again(home: Path) -> None:
    done = in_python(home, "-m", "cli.main", "step", "--asked", LOST)
    assert done.returncode == 1
    assert "call usecases.card_fraud.tasks.nowhere: cannot be found" in done.stderr
    (kept,) = task_runs(home, "card_fraud")
    assert (kept.task, kept.outcome) == ("lost", REFUSED)
