"""`riskflow runs`, `riskflow pools`, and `riskflow step`, which is what a pod runs."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json

if TYPE_CHECKING:
    from batch.task_runs import TaskRun

Usecase = Annotated[str, typer.Argument(help="use case")]
Limit = Annotated[int, typer.Option(min=1, help="the newest so many")]
XCOM = Path("/airflow/xcom/return.json")  # where Airflow's sidecar looks for what a pod hands over


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    group = typer.Typer(no_args_is_help=True, help="The history of task runs: what ran, how long, how it ended.")
    group.command("list")(list_)
    group.command()(failed)
    group.command()(again)
    app.add_typer(group, name="runs")
    app.command()(pools)
    app.command(hidden=True)(step)


def list_(usecase: Usecase = "card_fraud", limit: Limit = 40, as_json: Json = False) -> None:
    """The newest task runs."""
    _print(_task_runs(usecase)[-limit:], as_json)


def failed(usecase: Usecase = "card_fraud", limit: Limit = 40, as_json: Json = False) -> None:
    """Tasks whose last try failed or was refused, and how each is run again alone."""
    from batch.task_runs import BAD

    found = [task for task in _task_runs(usecase) if task.outcome in BAD][-limit:]
    _print(found, as_json)
    for task in found if not as_json else []:
        index = f" --map-index {task.map_index}" if task.map_index >= 0 else ""
        print(f"\n{task.dag}.{task.name}, run {task.dag_run}\n  {task.error}")
        print(f"  again: riskflow runs again {task.dag} {shlex.quote(task.dag_run)} {task.task}{index}")


def again(
    dag: Annotated[str, typer.Argument(help="as `riskflow runs failed` names it: card_fraud_retrain")],
    run: Annotated[str, typer.Argument(help="the run, by Airflow's name")],
    task: Annotated[str, typer.Argument(help="the task")],
    map_index: Annotated[int, typer.Option(help="which one, where there are several: a candidate, a day")] = -1,
    as_json: Json = False,
) -> None:
    """Do one task of a run again, alone, and then what comes after it; Airflow must run."""
    from batch.airflow_client import Airflow
    from riskflow.errors import RiskflowError
    from riskflow.settings import settings

    found = Airflow.of(settings()).again(dag, run, task, map_index)
    if not found:
        raise RiskflowError(f"{dag}, run {run} has no task {task!r} of that number. See `riskflow runs failed`")
    print(json.dumps(found) if as_json else f"runs again: {', '.join(found)}")


def pools(as_json: Json = False) -> None:
    """Make the pools in Airflow that pipeline.yaml files name: a task waits for ever where its pool is missing."""
    from batch.pools import make_pools
    from riskflow.settings import settings

    wanted = make_pools(settings())
    print(json.dumps(wanted) if as_json else "\n".join(f"{n}: {s} slots" for n, s in wanted.items()) or "no pool named")


def step(
    asked: Annotated[str, typer.Option(help="JSON, as the DAG writes it")],
    args: Annotated[str, typer.Option(help="JSON: what the step's function gets")] = "{}",
    skip_unless: Annotated[str, typer.Option(help="exit code 77 where the summary has nothing under it")] = "",
) -> None:
    """Do one step of a DAG here. The last line is its summary."""
    from batch.steps import Asked, perform
    from batch.task_runs import NOTHING_TO_DO, Skipped, recorded
    from riskflow.settings import settings

    task, given = Asked.from_json(asked), json.loads(args)
    label = next((str(value) for value in given.values()), "") if task.map_index >= 0 else ""
    try:
        with recorded(settings().home, task.task_run(label)) as ended:
            ended.summary = perform(task, given, skip_unless)
    except Skipped as skipped:
        print(skipped)
        raise typer.Exit(NOTHING_TO_DO) from None
    text = json.dumps(ended.summary, default=str)
    if XCOM.parent.is_dir():
        XCOM.write_text(text)
    print(text)


def _task_runs(usecase: str) -> list[TaskRun]:
    from batch.task_runs import task_runs
    from cli.common import check_usecase
    from riskflow.names import checked
    from riskflow.settings import settings

    found = task_runs(settings().home, checked(usecase, "use case"))
    if not found:
        check_usecase(usecase)
    return found


def _print(found: list[TaskRun], as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print(json.dumps([asdict(task) for task in found]))
        return
    for task in found:
        print("  ".join(_cells(task)))
    if not found:
        print("nothing")


def _cells(task: TaskRun) -> list[Any]:
    began = datetime.fromtimestamp(task.started_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    seconds = "" if task.seconds is None else f"{task.seconds:.1f} s"
    name = f"{task.dag}.{task.name}" + (f" ({task.label})" if task.label else "")
    return [began, f"{name:48}", f"{task.outcome:8}", f"{seconds:>9}", f"try {task.attempt}", task.run]
