"""`<use case>_drift`: looks at what was scored lately, and may ask for a retraining."""

from __future__ import annotations

from airflow.sdk import DAG

from batch.pipeline_dags import DRIFT
from riskflow_dags.shared import Maker
from riskflow_dags.task import riskflow_task

DOC = """
### Holds what {usecase} scored lately against what its champion was made from

Drift of inputs and score, estimated quality, and measured quality once labels are mature. Past its thresholds it
alerts; where pipeline.yaml says so the asset `{usecase}/drift` asks for a retraining. See the section `watch`.
"""


def make(maker: Maker) -> DAG:
    """drift, ask_retrain."""

    @riskflow_task(outlets=[maker.asset(DRIFT)])
    def ask_retrain(found: dict[str, object]) -> dict[str, object]:
        """Asks for a retraining, where that is called for."""
        from batch.task_runs import Skipped

        if not found.get("retrain"):
            raise Skipped("no retraining is called for")
        return found

    with maker.dag(DOC) as dag:
        ask_retrain(maker.step("drift"))
    return dag
