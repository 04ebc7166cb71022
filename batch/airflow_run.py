"""Follows one run of a retraining DAG to its end: what was published, or the refusal that names the gate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from batch.airflow_client import ENDED, POLL_S, Airflow, Task
from batch.task_runs import task_runs
from riskflow.errors import RiskflowError
from riskflow.settings import settings

Tell = Callable[[str, str, str], None]  # task, state, detail


class RetrainFailed(RiskflowError):
    """Nothing was published; the message says which task failed or which gate was not passed."""


def follow(airflow: Airflow, usecase: str, run_id: str, tell: Tell) -> dict[str, Any]:
    """Tells the state of each task until the run has ended; returns what `publish` handed over."""
    dag_id = f"{usecase}_retrain"
    while True:
        state = airflow.run(dag_id, run_id)["state"]
        tasks = airflow.tasks(dag_id, run_id)
        for task in tasks:
            tell(task.name, task.state, _detail(task))
        if state in ENDED:
            break
        time.sleep(POLL_S)
    if state != "success":
        raise RetrainFailed(_why(airflow, dag_id, run_id, tasks))
    published = airflow.result(dag_id, run_id, "publish")
    if published is None:
        raise RetrainFailed(_skipped(airflow, dag_id, run_id, tasks))
    verdict = airflow.result(dag_id, run_id, "judge") or {}
    return {**published, "run": run_id, **{n: verdict.get(n) for n in ("candidate", "metrics")}}


def _detail(task: Task) -> str:
    tried = f"try {task.try_number}" if task.try_number > 1 else ""
    label = task.label if task.label != str(task.map_index) else ""  # its number, before it has a name
    return " ".join(x for x in (label, tried, f"{task.duration_s:.1f} s" if task.duration_s else "") if x)


def _skipped(airflow: Airflow, dag_id: str, run_id: str, tasks: list[Task]) -> str:
    """Nothing failed and nothing was published: which task had nothing to go on with, and what can be done."""
    task = next((task.name for task in tasks if task.state == "skipped"), "publish")
    why = " A race is not over: --alias challenger takes the challenger's place, --alias challenger:NAME joins it."
    return (
        f"{dag_id}, run {run_id}: nothing was published, {task} was skipped.{why if task == 'turn' else ''} Its log: "
        f"{airflow.url}/dags/{dag_id}/runs/{run_id}"
    )


def _why(airflow: Airflow, dag_id: str, run_id: str, tasks: list[Task]) -> str:
    """The gates that failed, when it came to that; else the task and where its log is."""
    verdict = airflow.result(dag_id, run_id, "judge")
    if verdict and not verdict["passed"]:
        lines = [
            f"  {g['name']}: found {g['found']}, wanted {g['wanted']}" for g in verdict["gates"] if not g["passed"]
        ]
        return "\n".join([f"{verdict['usecase']}: {verdict['candidate']} is not published", *lines])
    failed = next((task.name for task in tasks if task.state == "failed"), "no task")
    at = f"Its log: {airflow.url}/dags/{dag_id}/runs/{run_id}"
    return f"{dag_id}, run {run_id}: {failed} failed{_said(dag_id, run_id, failed)}. {at}"


def _said(dag_id: str, run_id: str, failed: str) -> str:
    """What the task said as it ended; nothing where the history of runs stands on another machine."""
    usecase = dag_id.removesuffix("_retrain")
    errors = [t.error for t in task_runs(settings().home, usecase) if t.dag_run == run_id and t.name == failed]
    return f": {errors[-1].rstrip('.')}" if errors and errors[-1] else ""
