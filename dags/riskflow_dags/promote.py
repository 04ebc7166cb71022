"""`<use case>_promote`: race, approval, canary, champion."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, PokeReturnValue, TriggerRule, chain, get_current_context, task

from batch.pipeline_dags import APPROVAL, CHAMPION
from batch.steps import perform
from batch.task_runs import Skipped
from riskflow.durations import duration_ms
from riskflow_dags.shared import WHY, Maker
from riskflow_dags.task import asked, riskflow_task

A_LOOK = timedelta(minutes=15)  # one look of a guard takes seconds; one that hangs is as bad as none
TAKE_BACK_TRIES = 20
ANSWER = "answer"  # of the person who was asked

DOC = """
### {usecase}: from challenger to champion

The challengers race against the champion on matured labels. A winner is approved by a person, if pipeline.yaml says so,
then decides for a growing share of the entities. A guard looks at every share while it soaks, and rolls back by itself.

- Nobody won, or nobody can have won yet: everything after `winner` is skipped, and the next run looks again.
- The guard or the person said no: that version challenges no more, so the next run does not ask again.
- The ramp ended otherwise than by the crown: `take_back` takes the canary off.
- To stop a roll-out: `riskflow models retire canary`. To go back: `riskflow models rollback`.
"""
QUESTION = """
Version **{{ ti.xcom_pull(task_ids='race')['winner'] }}** won the race of run `{{ run_id }}`. The evidence:

```
{{ ti.xcom_pull(task_ids='race')['evidence'] | tojson(indent=1) }}
```
"""


def make(maker: Maker) -> DAG:
    """race, winner, approval if configured, canary and guard for each share, crown; and what takes the canary back."""
    with maker.dag(DOC, {"why": WHY}) as dag:
        raced = maker.step("race")
        last: Any = _winner(raced)
        answer, ramp = None, list[Any]()
        if maker.pipeline.file.promotion == APPROVAL:
            approval = _approval(maker)
            last >> approval
            last, answer = approval, approval.output
        for share in maker.pipeline.file.ramp.shares:
            ramp += _share(maker, raced, share)
        crowned = maker.step("crown", {"raced": raced, "answer": answer}, outlets=[maker.asset(CHAMPION)])
        chain(last, *ramp, crowned)
        if answer is not None:
            ramp[0] >> _rejected()
        # A teardown runs whatever became of the ramp, also when a person ends the run, and hides no failure of it.
        [*ramp, crowned] >> maker.step("take_back", skip_unless="taken_back", retries=TAKE_BACK_TRIES).as_teardown()
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

    class Approval(ApprovalOperator):
        """Hands over a no as well, before Airflow's own skips what follows and keeps nothing of it."""

        def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
            context["ti"].xcom_push(ANSWER, event)
            return super().execute_complete(context, event)

    return Approval(
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


def _rejected() -> Any:
    """Runs when the first canary was skipped. It does not hang on `approval` itself: a no skips what does."""

    @riskflow_task(trigger_rule=TriggerRule.ALL_SKIPPED)
    def rejected() -> Any:
        """Takes the winner out of the race after a no: the same one is not asked again."""
        context = get_current_context()
        raced = context["ti"].xcom_pull(task_ids="race")
        answer = context["ti"].xcom_pull(task_ids="approval", key=ANSWER) or {}
        if "Reject" not in answer.get("chosen_options", ()):
            raise Skipped("nobody has rejected it")
        return perform(asked(context, "reject"), {"raced": raced, "answer": answer})

    return rejected()


def _share(maker: Maker, raced: Any, share: float) -> tuple[Any, Any]:
    """The canary at one share, and the guard that looks at it until it has shown enough."""
    name = f"{share * 100:g}".replace(".", "_")
    poll, patience = (
        timedelta(milliseconds=duration_ms(getattr(maker.pipeline.file.ramp, n))) for n in ("poll", "patience")
    )

    @riskflow_task(task_id=f"canary_{name}")
    def canary(raced: dict[str, Any]) -> Any:
        """Lets the winner decide for a share of the entities."""
        return perform(asked(get_current_context(), "ramp"), {"raced": raced, "share": share})

    @riskflow_task(
        like=task.sensor, task_id=f"guard_{name}", mode="reschedule", poke_interval=poll, timeout=patience + A_LOOK,
        execution_timeout=A_LOOK,
    )  # fmt: skip
    def guard(raced: dict[str, Any]) -> Any:
        """Looks now and then until the share has shown enough; takes the canary back where it differs by too much."""
        seen = perform(asked(get_current_context(), "guard"), {"raced": raced})
        return PokeReturnValue(not seen["waits"], seen)

    return canary(raced), guard(raced)
