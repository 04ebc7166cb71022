"""What Airflow's processes are started with."""

from __future__ import annotations

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
