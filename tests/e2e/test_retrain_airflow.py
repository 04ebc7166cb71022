"""Retraining through Airflow's real processes while events flow: tasks, publication, swap, nothing lost."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.demo_run import check_nothing_lost, left_running, run_demo

TASKS = {"archive", "labels", "check", "replay", "train", "judge", "publish"}


@pytest.mark.long  # `make test` plays a life with Airflow, and the demo without
@pytest.mark.airflow
@pytest.mark.services
@pytest.mark.timeout(600)
def test_airflow_retrains_and_the_worker_swaps_while_events_flow(tmp_path: Path) -> None:
    code, found, said = run_demo(tmp_path, timeout_s=580)

    assert code == 0, said
    check_nothing_lost(found, said)
    assert found["swap_s"] < 20  # two seconds where nothing else runs; how fast a swap is says `python -m bench.swaps`
    states = task_states(tmp_path / "demo" / "airflow" / "airflow.db")
    assert {task for task, _, _ in states} == TASKS
    assert all(state == "success" for _, _, state in states), states
    assert sum(task == "train" for task, _, _ in states) == 3  # one for each candidate
    (published,) = (tmp_path / "demo" / "runs" / "card_fraud").glob("manual*/published.json")
    assert json.loads(published.read_text())["version"] == 2
    assert asset_events(tmp_path / "demo" / "airflow" / "airflow.db") == ["card_fraud/champion"]
    assert left_running(tmp_path) == []


def asset_events(database: Path) -> list[str]:
    """What the tasks said of assets: here the bundle that was published, under the name of its alias."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [
            name for (name,) in connection.execute("select a.name from asset_event e join asset a on a.id = asset_id")
        ]


def task_states(database: Path) -> list[tuple[str, int, str]]:
    """Task, map index and state of the run that `riskflow retrain` started."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute("select task_id, map_index, state from task_instance").fetchall()
