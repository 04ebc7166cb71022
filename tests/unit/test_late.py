"""A run that passes its deadline is told: what Airflow is handed is what its executor can call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from riskflow.settings import PROJECT

pytest.importorskip("airflow", reason="Airflow is a dependency group of its own")

# As Airflow's executor does it: by the path and the arguments that the DAG was stored with, and the run's context.
MISSED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import structlog
from airflow.sdk.execution_time.callback_supervisor import execute_callback
from riskflow_dags import usecase_dags
(deadline,) = usecase_dags("card_fraud")["card_fraud_retrain"].deadline
open(sys.argv[2], "w").write(sys.argv[3])
stored = json.loads(json.dumps(deadline.callback.serialize()))
context = {"dag_run": {"dag_run_id": "manual__1"}, "deadline": {"id": "7"}}
told = execute_callback(stored["path"], {**stored["kwargs"], "context": context}, "", None, structlog.get_logger())
print(json.dumps(told))
"""


@pytest.mark.parametrize("by_then", ["deadlines: {retrain: 2h}\n", "deadlines: {retrain: soon}\n"])
def test_a_run_that_is_late_is_told_by_name_also_where_the_file_is_broken_by_then(tmp_path: Path, by_then: str) -> None:
    (tmp_path / "card_fraud").mkdir()
    pipeline = tmp_path / "card_fraud" / "pipeline.yaml"
    pipeline.write_text("deadlines: {retrain: 2h}\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "RISKFLOW"))}
    home = {"AIRFLOW_HOME": str(tmp_path), "RISKFLOW_HOME": str(tmp_path), "RISKFLOW_USECASES": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", MISSED, str(PROJECT / "dags"), str(pipeline), by_then], cwd=PROJECT,
        env={**clean, **home, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [True, None]
    said = done.stdout + done.stderr
    assert "alert late of card_fraud: card_fraud_retrain: run manual__1 has not ended within 2h" in said
