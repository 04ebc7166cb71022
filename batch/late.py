"""What is done when a DAG run passes its deadline: Airflow's executor calls `tell_late` by its name."""

from __future__ import annotations

from typing import Any


def tell_late(usecase: str, kind: str, within: str, context: Any = None, **_: Any) -> None:
    """An alert on every channel of the use case; it never raises."""
    from batch.alerts import LATE, alert
    from batch.pipeline import FILE, Pipeline
    from riskflow.errors import DeclarationError
    from riskflow.settings import settings

    conf = settings()
    try:
        pipeline = Pipeline.load(conf.usecases / usecase / FILE)
    except DeclarationError:
        pipeline = Pipeline()
    run = (context or {}).get("dag_run") or {}
    run_id = run.get("dag_run_id") or run.get("run_id") if isinstance(run, dict) else getattr(run, "run_id", None)
    text = f"{usecase}_{kind}: run {run_id or '?'} has not ended within {within}"
    alert(conf, pipeline, usecase, LATE, text, {"dag": f"{usecase}_{kind}", "run": run_id, "within": within})
