"""`@riskflow_task`: Airflow's `@task` with what every task should have, without a line for it.

    @riskflow_task
    def refresh_lists(): ...                    in a DAG whose owner is the use case

- A record of each try in the run's history: when, how long, how it ended, what it handed over (`riskflow runs list`).
- A line in the log when it has ended. Airflow's own metrics count and time it, once OpenTelemetry is on.
- An alert on every channel of the use case's pipeline.yaml when it has failed for good.
- What would fail the same way again is not tried again, and `Skipped` skips what waits for it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from airflow.sdk import get_current_context, task

from batch.steps import Asked, run_name
from batch.task_runs import Skipped, TaskRun, failed_outside, recorded

log = logging.getLogger(__name__)


def riskflow_task(function: Callable[..., Any] | None = None, *, like: Any = task, **options: Any) -> Any:
    """A decorator, with or without options: those of `@task`. like: another decorator of Airflow's, as task.sensor."""
    if function is None:
        return functools.partial(riskflow_task, like=like, **options)
    told = options.pop("on_failure_callback", None) or []
    callbacks = [*(told if isinstance(told, list) else [told]), alert_failed]
    if like is not task.sensor:  # which says so itself
        options.setdefault("multiple_outputs", False)
    return like(**options, on_failure_callback=callbacks)(with_record(function))


def with_record(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its record, and with Airflow's exceptions in place of ours."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

        from riskflow.settings import settings

        context = get_current_context()
        try:
            with recorded(settings().home, task_run(context)) as ended:
                try:
                    answer = function(*args, **kwargs)
                    ended.waits = answer is not None and getattr(answer, "is_done", True) is False
                    ended.summary = getattr(answer, "xcom_value", answer)
                finally:
                    ended.label = str(context.get("label", ""))
        except Skipped as skipped:
            raise AirflowSkipException(str(skipped)) from None
        except Exception as error:
            if not getattr(error, "final", False):
                raise
            raise AirflowFailException(str(error)) from None
        return answer

    return run


def asked(context: Mapping[str, Any], step: str = "") -> Asked:
    """What a task was asked for, from Airflow's context. A DAG's owner is its use case."""
    ti, run, usecase = context["ti"], context["dag_run"], owner(context)
    start, end = getattr(run, "data_interval_start", None), getattr(run, "data_interval_end", None)
    return Asked(
        usecase, ti.dag_id.removeprefix(f"{usecase}_"), step or ti.task_id, context["run_id"],
        dict(context["params"]), _ms(start), _ms(end), who(run), ti.map_index, ti.try_number,
        causes(run),
    )  # fmt: skip


def task_run(context: Mapping[str, Any]) -> TaskRun:
    return asked(context).task_run()


def owner(context: Mapping[str, Any]) -> str:
    found = context["task"].owner
    return str(found).partition(",")[0].strip()


def who(run: Any) -> str:
    """Who asked for the run, as Airflow knows them."""
    return f"airflow: {getattr(run, 'triggering_user_name', None) or ', '.join(causes(run))}"


def causes(run: Any) -> list[str]:
    """What started a run: its assets, without the use case; else Airflow's word, such as `scheduled` or `manual`."""
    assets = {event.asset.name.rpartition("/")[2] for event in getattr(run, "consumed_asset_events", None) or ()}
    kind = getattr(run, "run_type", "scheduled")
    return sorted(assets) or [str(getattr(kind, "value", kind))]


def alert_failed(context: Mapping[str, Any]) -> None:
    """Tells people that a task has failed for good. Airflow calls it after the last try."""
    from airflow.sdk.exceptions import AirflowFailException

    from batch.alerts import REFUSED, TASK_FAILED, alert
    from batch.pipeline import FILE, Pipeline
    from riskflow.errors import DeclarationError
    from riskflow.settings import settings

    conf, ti, error = settings(), context["ti"], context.get("exception")
    usecase, run = owner(context), str(context["run_id"])
    why = f"{type(error).__name__}: {error}" if error else "its process ended without a word"
    failed_outside(conf.home, task_run(context), why)
    try:
        pipeline = Pipeline.load(conf.usecases / usecase / FILE)
    except DeclarationError:
        pipeline = Pipeline()
    kind = REFUSED if isinstance(error, AirflowFailException) else TASK_FAILED
    about = {"dag": ti.dag_id, "run": run, "task": ti.task_id, "map_index": ti.map_index, "try": ti.try_number}
    folder = run_name(ti.dag_id.removeprefix(f"{usecase}_"), run)
    alert(conf, pipeline, usecase, kind, f"{ti.dag_id}.{ti.task_id} failed: {why}", {**about, "folder": folder})


def _ms(moment: Any) -> int | None:
    return int(moment.timestamp() * 1000) if moment is not None else None
