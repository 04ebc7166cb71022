"""Builds the DAGs of a use case from its pipeline.yaml: wiring only, the work is done by batch/steps.py.

One DAG file for each use case, so that a broken pipeline.yaml is an import error of its own DAGs and of no others.
Nothing heavy is imported here: Airflow reads these files again and again. Tasks hand over small summaries; data lies as
files in the run's folder.
"""

from __future__ import annotations

import importlib

from airflow.sdk import DAG, get_parsing_context

from batch.pipeline import FILE, Pipeline
from batch.pipeline_dags import KINDS, when
from riskflow.settings import settings
from riskflow_dags.shared import Maker, hang_own_tasks
from riskflow_dags.task import riskflow_task

__all__ = ["riskflow_task", "usecase_dags"]


def usecase_dags(usecase: str) -> dict[str, DAG]:
    """DAG id -> DAG, of all that its pipeline.yaml asks for; raises DeclarationError naming file, line and fix.

    A task that is about to run gets its own DAG only.
    """
    pipeline = Pipeline.load(settings().usecases / usecase / FILE)
    wanted = get_parsing_context().dag_id
    makers = [Maker(usecase, pipeline, kind) for kind in KINDS if when(pipeline.file, kind) is not None]
    return {maker.dag_id: _made(maker) for maker in makers if wanted in (None, maker.dag_id)}


def _made(maker: Maker) -> DAG:
    dag: DAG = importlib.import_module(f"riskflow_dags.{maker.kind}").make(maker)
    hang_own_tasks(maker, dag)
    return dag
