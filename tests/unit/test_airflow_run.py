"""Following a retraining: what is told while it runs, and what a person reads when nothing was published."""

from __future__ import annotations

from typing import Any

import pytest

from batch.airflow_client import Airflow, Task
from batch.airflow_run import RetrainFailed, follow
from riskflow.errors import NotReady

GATES = [
    {"name": "rows", "passed": True, "found": 9000, "wanted": "at least 5000"},
    {"name": "average_precision", "passed": False, "found": 0.31, "wanted": "at least 0.5"},
]


class Recorded:
    """Answers as an API server does, one look after another."""

    url = "http://airflow"

    def __init__(self, looks: list[tuple[str, list[Task]]], results: dict[str, Any]) -> None:
        self._looks, self._results = looks, results

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return {"state": self._looks[0][0]}

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        return self._looks.pop(0)[1] if len(self._looks) > 1 else self._looks[0][1]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        return self._results.get(task_id)


def followed(looks: list[tuple[str, list[Task]]], **results: Any) -> tuple[Any, list[tuple[str, str, str]]]:
    told: list[tuple[str, str, str]] = []
    airflow: Any = Recorded(looks, results)
    return follow(airflow, "card_fraud", "r1", lambda *about: told.append(about)), told


def test_what_was_published_comes_back_with_its_figures() -> None:
    looks = [
        ("running", [Task("archive", "running")]),
        ("success", [Task("archive", "success", duration_s=2.0), Task("train", "success", 1, "forest", 2)]),
    ]
    verdict = {"candidate": "forest", "metrics": {"ap": 0.7}}

    found, told = followed(looks, publish={"version": 7, "alias": "champion"}, judge=verdict)

    assert found == {"version": 7, "alias": "champion", "run": "r1", "candidate": "forest", "metrics": {"ap": 0.7}}
    assert told[0] == ("archive", "running", "")
    assert told[-1] == ("train[1]", "success", "forest try 2")


def test_a_refusal_names_the_failed_gate_and_no_other() -> None:
    verdict = {"usecase": "card_fraud", "candidate": "forest", "passed": False, "gates": GATES}

    with pytest.raises(RetrainFailed, match=r"average_precision: found 0.31, wanted at least 0.5") as refusal:
        followed([("failed", [Task("publish", "failed")])], judge=verdict)

    assert "rows" not in str(refusal.value)


def test_a_failed_task_is_named_with_the_way_to_its_log() -> None:
    with pytest.raises(RetrainFailed, match=r"replay failed. Its log: http://airflow/dags/card_fraud_retrain/runs/r1"):
        followed([("failed", [Task("check", "success"), Task("replay", "failed")])])


def test_an_airflow_that_is_not_there_is_told_with_both_ways_out() -> None:
    with pytest.raises(NotReady, match=r"riskflow up.*--local"):
        Airflow("http://127.0.0.1:9", "admin", "admin").wait_for("card_fraud_retrain", 1)
