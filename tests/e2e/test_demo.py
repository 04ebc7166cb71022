"""`make demo`, small and without Airflow: from an empty folder to the proof, and nothing stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.demo_run import check_nothing_lost, left_running, run_demo


@pytest.mark.services
def test_a_demo_loses_nothing_and_leaves_nothing_running(tmp_path: Path) -> None:
    code, found, said = run_demo(tmp_path, "--no-airflow", timeout_s=280)

    assert code == 0, said
    check_nothing_lost(found, said)
    assert left_running(tmp_path) == []
