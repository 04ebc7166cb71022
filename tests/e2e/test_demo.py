"""`make demo`, small and without Airflow: from an empty folder to the proof, and nothing stays behind.

With Airflow it is played by test_retrain_airflow.py, in `make chaos`; a whole life with Airflow by test_lifecycle.py.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from ops import process
from tests.e2e.demo_run import check_nothing_lost, left_running, run_demo, start_demo


@pytest.mark.services
@pytest.mark.timeout(300)
def test_a_demo_loses_nothing_and_leaves_nothing_running(tmp_path: Path) -> None:
    code, found, said = run_demo(tmp_path, "--no-airflow", timeout_s=280)

    assert code == 0, said
    check_nothing_lost(found, said)
    assert left_running(tmp_path) == []


@pytest.mark.long
@pytest.mark.services
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: int) -> None:
    with start_demo(tmp_path, "--no-airflow") as running:
        deadline = time.monotonic() + 100
        while "redis" not in process.records(tmp_path / "demo") and time.monotonic() < deadline:
            time.sleep(0.1)
        running.send_signal(number)
        _, said = running.communicate(timeout=100)

    assert running.returncode == 130, said
    assert "nothing is left running" in said
    assert left_running(tmp_path) == []
