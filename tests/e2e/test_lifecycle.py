"""A whole life of a model through real Kafka, Redis and Airflow: `riskflow lifecycle --quick` asserts each step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.demo_run import ended, left_running, start


@pytest.mark.airflow
@pytest.mark.services
@pytest.mark.timeout(600)
def test_a_model_is_raced_approved_crowned_outlived_and_rolled_back(tmp_path: Path) -> None:
    code, found, said = ended(start(tmp_path, "lifecycle", "--quick", "--json"), 580)
    assert code == 0, said
    assert found["passed"], found["wrong"]
    assert found["rollback_s"] < 2
    assert found["race"]["wins"]
    assert (found["lost"], found["differing"]) == (0, 0)
    assert left_running(tmp_path, "lifecycle") == []
