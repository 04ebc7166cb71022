"""`<use case>_promote`: race, approval, canary, champion."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

from batch.pipeline_dags import APPROVAL, CHAMPION
from batch.steps import perform
from riskflow.durations import duration_ms
from riskflow_dags.shared import WHY, Maker
from riskflow_dags.task import asked, riskflow_task

DOC = """
### {usecase}: from challenger to champion

The challengers race against the champion on matured labels. A winner is approved by a person, if pipeline.yaml says so,
then decides for a growing share of the entities. A guard looks at every share while it soaks, and rolls back by itself.

- Nobody won, or nobody can have won yet: everything after `winner` is skipped, and the next run looks again.
- To stop a roll-out: `riskflow models retire canary`. To go back: `riskflow models rollback`.
"""
QUESTION = """
Version **{{ ti.xcom_pull(task_ids='race')['winner'] }}** won the race of run `{{ run_id }}`. The evidence:

```
{{ ti.xcom_pull(task_ids='race')['evidence'] | tojson(indent=1) }}
```
"""


def make(maker: Maker) -> DAG:
    """race, winner, approval if configured, canary and guard for each share, crown."""
    with maker.dag(DOC, {"why": WHY}) as dag:
        raced = maker.step("race")
        last: Any = _winner(raced)
        answer = None
        if maker.pipeline.file.promotion == APPROVAL:
            approval = _approval(maker)
            last >> approval
            last, answer = approval, approval.output
        for share in maker.pipeline.file.ramp.shares:
            begun, watched = _share(maker, raced, share)
            last >> begun >> watched
            last = watched
        crowned = maker.step("crown", {"raced": raced, "answer": answer}, outlets=[maker.asset(CHAMPION)])
        last >> crowned
    return dag


def _winner(raced: Any) -> Any:
    @riskflow_task(like=task.short_circuit)
    def winner(raced: dict[str, Any]) -> bool:
        """Goes on when somebody has won."""
        return raced["winner"] is not None

    return winner(raced)


def _approval(maker: Maker) -> Any:
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    from riskflow_dags.shared import alert_failed

    return ApprovalOperator(
        task_id="approval",
        doc_md="Asks a person; no answer in time is a no.",
        subject=f"{maker.usecase}: shall version {{{{ ti.xcom_pull(task_ids='race')['winner'] }}}} be rolled out?",
        body=QUESTION,
        defaults=ApprovalOperator.REJECT,
        params={"why": Param("", type="string", description="The reason, for the history")},
        response_timeout=timedelta(milliseconds=duration_ms(maker.pipeline.file.answer_within)),
        execution_timeout=None,
        on_failure_callback=[alert_failed],
    )


def _share(maker: Maker, raced: Any, share: float) -> tuple[Any, Any]:
    """The canary at one share, and the guard that looks at it until it has shown enough."""
    name = f"{share * 100:g}".replace(".", "_")

    @riskflow_task(task_id=f"canary_{name}")
    def canary(raced: dict[str, Any]) -> Any:
        """Lets the winner decide for a share of the entities."""
        return perform(asked(get_current_context(), "ramp"), {"raced": raced, "share": share})

    @riskflow_task(task_id=f"guard_{name}", execution_timeout=None)
    def guard(raced: dict[str, Any]) -> Any:
        """Waits until the share has shown enough; where it differs by too much the canary is taken back."""
        return perform(asked(get_current_context(), "guard"), {"raced": raced, "share": share})

    return canary(raced), guard(raced)
