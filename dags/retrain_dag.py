"""Builds a use case's retraining DAG from its pipeline.yaml: wiring only, the work is done by batch/retrain.py.

One DAG file for each use case, so that a broken pipeline.yaml is an import error of that DAG and of no other. Nothing
heavy is imported here: Airflow reads this file again and again. Tasks hand over small summaries; data lies as files in
the run's folder.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, get_current_context, task

from batch.pipeline import FILE, Pipeline
from riskflow.settings import settings

DOC = """
### {usecase}: learn again, judge, publish

Reads what was archived, works out every feature through the kernel of the stream, races the candidates, and publishes
the best one if it passes its gates. Workers take the new bundle within two seconds; no event waits for it.

- Written down in `usecases/{usecase}/{file}`: schedule `{schedule}`, learns from {span}, an event is mature after
  {maturity}, validates on the newest {validation}.
- From a terminal: `riskflow retrain {usecase} --why "more fraud since Monday"`; without Airflow: `--local`.
- A refusal names the gate that failed; the evidence is `verdict.json` in the run's folder.
- To go back: `riskflow models rollback`.
"""


def retrain_dag(usecase: str) -> DAG:
    """The DAG `<usecase>_retrain`; raises DeclarationError naming file, line and fix."""
    pipeline = Pipeline.load(settings().usecases / usecase / FILE)
    with DAG(
        f"{usecase}_retrain",
        description=f"Trains {usecase} anew, judges it, publishes it",
        doc_md=_doc(usecase, pipeline),
        schedule=_schedule(pipeline.file.schedule),
        catchup=False,
        max_active_runs=1,
        max_active_tasks=4,
        tags=["riskflow", "retrain", usecase],
        params=_params(),
        default_args={
            "owner": usecase,
            "retries": pipeline.file.retries,
            "retry_delay": timedelta(seconds=20),
            "execution_timeout": timedelta(hours=2),
        },
    ) as dag:
        _tasks(usecase)
    return dag


def _doc(usecase: str, pipeline: Pipeline) -> str:
    file = pipeline.file
    words = {name: getattr(file, name) for name in ("span", "maturity", "validation")}
    return DOC.format(usecase=usecase, file=FILE, schedule=file.schedule or "only on demand", **words)


def _schedule(cron: str | None) -> CronTriggerTimetable | None:
    """At its hours and never before: a DAG that is switched on does not start a run at once."""
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0)) if cron else None


def _params() -> dict[str, Param]:
    return {
        "why": Param("", type="string", maxLength=500, description="The reason, for the history of the registry"),
        "train_days": Param(
            None, type=["null", "integer"], minimum=2, maximum=3650, description="Learn from so many days instead"
        ),
        "alias": Param(
            "champion",
            type="string",
            enum=["champion", "challenger", "shadow"],
            description="Who the new bundle becomes; all but the champion are kept and score nothing",
        ),
    }


def _tasks(usecase: str) -> None:
    """archive, labels, check, replay, train for each candidate, judge, publish."""

    @task
    def archive() -> dict[str, Any]:
        """Brings the lake up to the ends of the topics. Done again, it adds what is new."""
        return _step("archive", usecase)

    @task
    def labels() -> dict[str, Any]:
        """Completes labels that came without the event's customer or terminal, and sends them once more."""
        from batch.labels import complete_labels

        run = _run(usecase)
        return complete_labels(run.plan, run.conf, fresh=False).summary()

    @task
    def check() -> dict[str, Any]:
        """Looks whether enough was archived, with labels as usual, before anything expensive begins."""
        return _step("check", usecase)

    @task
    def replay() -> list[str]:
        """Works out the features of every row through the kernel, and hands over the names of those who will race."""
        print(_step("replay_frame", usecase))
        return list(_run(usecase).candidates)

    @task(map_index_template="{{ candidate }}", doc_md="Trains one candidate: out of time for the race, then for good.")
    def train(candidate: str) -> dict[str, Any]:
        get_current_context()["candidate"] = candidate  # names the task in the UI
        return _step("train", usecase, candidate)

    @task
    def judge() -> dict[str, Any]:
        """Takes the best candidate, makes its bundle, and writes the verdict: figures, gates, beside the champion."""
        return _step("judge_run", usecase)

    @task
    def publish() -> dict[str, Any]:
        """Signs and publishes the bundle and moves the alias; or fails with the refusal that names the gate."""
        params = get_current_context()["params"]
        return _step("publish_run", usecase, who=_who(), why=str(params["why"]), alias=str(params["alias"]))

    racing = replay()
    archive() >> labels() >> check() >> racing
    train.expand(candidate=racing) >> judge() >> publish()


def _step(name: str, usecase: str, *args: Any, **options: Any) -> dict[str, Any]:
    """Calls one step of batch/retrain.py. What would fail the same way again is not tried again."""
    from airflow.sdk.exceptions import AirflowFailException

    from batch import retrain
    from batch.publish import GatesFailed

    try:
        return dict(getattr(retrain, name)(_run(usecase), *args, **options))
    except (retrain.CheckFailed, GatesFailed) as refusal:
        raise AirflowFailException(str(refusal)) from None


def _run(usecase: str) -> Any:
    """The run that this task belongs to."""
    from batch.retrain import Run
    from riskflow.plan import Plan
    from riskflow.usecase import load_usecase

    context, conf = get_current_context(), settings()
    run = Run.of(Plan.of(load_usecase(usecase, conf.usecases)), conf, context["run_id"])
    days = context["params"]["train_days"]
    return replace(run, pipeline=run.pipeline.learning_from(days)) if days else run


def _who() -> str:
    """Who asked for the run, as Airflow knows them."""
    run = get_current_context()["dag_run"]
    return f"airflow: {getattr(run, 'triggering_user_name', None) or getattr(run, 'run_type', 'schedule')}"
