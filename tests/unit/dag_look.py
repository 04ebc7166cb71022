"""What a use case's DAG file declares, as JSON: run in a process of its own, with an Airflow home of its own."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

HEAVY = ("numpy", "polars", "sklearn", "numba", "kafka", "redis", "onnxruntime", "riskflow.plan", "kubernetes")
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def described(dag: Any) -> dict[str, Any]:
    from airflow.serialization.serialized_objects import DagSerialization

    DagSerialization.to_dict(dag)  # what Airflow does with every DAG that it has read
    return {
        "upstream": {t.task_id: sorted(t.upstream_task_ids) for t in dag.tasks},
        "doc": dag.doc_md,
        "tags": sorted(dag.tags),
        "params": dag.params.dump(),
        "aliases": dag.params.get_param("alias").description if "alias" in dag.params else "",
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "schedule": repr(dag.timetable),
        "deadlines": [d.interval.total_seconds() for d in dag.deadline or []],
        "owners": sorted({t.owner for t in dag.tasks}),
        "retries": sorted({t.retries for t in dag.tasks}),
        "pools": sorted({t.pool for t in dag.tasks}),
        "rules": {t.task_id: str(t.trigger_rule) for t in dag.tasks},
        "outlets": {t.task_id: [o.name for o in t.outlets] for t in dag.tasks if t.outlets},
        "mapped": [t.task_id for t in dag.tasks if t.is_mapped],
        "modes": {t.task_id: t.mode for t in dag.tasks if hasattr(t, "mode")},
        "kinds": {t.task_id: t.task_type for t in dag.tasks},
        "undocumented": [t.task_id for t in dag.tasks if not _option(t, "doc_md")],
        "silent": [t.task_id for t in dag.tasks if not _option(t, "on_failure_callback")],
        "pods": {t.task_id: _pod(dag, t) for t in dag.tasks if t.task_type == "KubernetesPodOperator"},
    }


def _option(task: Any, name: str) -> Any:
    return task.partial_kwargs.get(name) if task.is_mapped else getattr(task, name)


def _pod(dag: Any, task: Any) -> Any:
    """The pod that Kubernetes would be asked for, its templates rendered."""
    from airflow.sdk.definitions.xcom_arg import PlainXComArg
    from kubernetes.client import ApiClient

    index = 0 if task.is_mapped else -1
    ti = SimpleNamespace(dag_id=dag.dag_id, task_id=task.task_id, map_index=index, try_number=2, task=task)
    run = SimpleNamespace(
        triggering_user_name="ann", data_interval_start=DAY, data_interval_end=DAY + timedelta(days=1), conf={}
    )
    params = {"why": 'they say "more {{ fraud }}"', "train_days": None}
    context: Any = {"ti": ti, "task": task, "dag_run": run, "run_id": "manual__1", "params": params, "dag": dag}
    # As Airflow does it: a mapped task is resolved first, and what comes from another task is not rendered.
    with patch.object(PlainXComArg, "resolve", lambda *_: ["random_forest"]):
        task.render_template_fields(context)
    task = context["task"]
    return ApiClient().sanitize_for_serialization(task.build_pod_request_obj(context, dry_run=True))


def main(folder: str, usecase: str) -> None:
    sys.path.insert(0, folder)
    from airflow.sdk import DAG

    found = {name: value for name, value in vars(__import__(usecase)).items() if isinstance(value, DAG)}
    heavy = sorted(set(HEAVY) & set(sys.modules))
    print(json.dumps({"heavy": heavy, "dags": {name: described(dag) for name, dag in found.items()}}, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
