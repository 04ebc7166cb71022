"""What all DAGs of a use case share: names, schedules, assets, defaults, and how a step becomes a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    AssetAlias,
    AssetAny,
    AssetOrTimeSchedule,
    CronDataIntervalTimetable,
    CronTriggerTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
    SyncCallback,
    get_current_context,
)

from batch.pipeline import FILE, Pipeline
from batch.pipeline_dags import CHALLENGER, CHAMPION, When, in_pod, when
from batch.steps import STEPS, perform
from riskflow.durations import duration_ms
from riskflow_dags.task import alert_failed, asked, riskflow_task

WHY = Param("", type="string", maxLength=500, description="The reason, for the history")
BUNDLE = Param("champion", type="string", description="A version, or an alias such as champion")
NEITHER = "neither: the run's data interval, else the last 7 whole days of the archive"
SPAN = {
    "from": Param(None, type=["null", "string"], description="Events from then on: RFC 3339 or a day, UTC"),
    "to": Param(None, type=["null", "string"], description=f"Events before then; {NEITHER}"),
}
# They sign, speak of assets, or look for a moment.
IN_WORKER = ("turn", "publish", "crown", "take_back", "take_back_late", "ready", "ask_retrain")
ABOUT = (
    "\nWritten down in `usecases/{usecase}/{file}`; it runs: {when}. `riskflow runs list {usecase}` shows its history."
)


@dataclass(frozen=True)
class Maker:
    """Makes the DAG of one kind of one use case, and its tasks."""

    usecase: str
    pipeline: Pipeline
    kind: str

    @property
    def dag_id(self) -> str:
        return f"{self.usecase}_{self.kind}"

    def dag(
        self, doc: str, params: Mapping[str, Param] | None = None, *, intervals: bool = False, **options: Any
    ) -> DAG:
        """intervals: a run covers the time since the one before, so that the past can be backfilled."""
        file, asked_when = self.pipeline.file, when(self.pipeline.file, self.kind) or When()
        about = ABOUT.format(usecase=self.usecase, file=FILE, when=asked_when)
        return DAG(
            self.dag_id,
            description=doc.strip().splitlines()[0].lstrip("# "),
            doc_md=doc.replace("{usecase}", self.usecase) + about,
            schedule=self._schedule(asked_when, intervals),
            catchup=False,
            max_active_runs=1,
            max_active_tasks=4,
            tags=["riskflow", self.kind, self.usecase],
            params=dict(params or {}),
            user_defined_macros={"asked": asked},
            deadline=self._deadline(),
            default_args={
                "owner": self.usecase,
                "retries": file.retries,
                "retry_delay": timedelta(seconds=20),
                "execution_timeout": timedelta(hours=2),
                **({"pool": file.pool.name} if file.pool else {}),
            },
            **options,
        )

    def asset(self, name: str) -> Asset:
        """`card_fraud/lake`: what one DAG makes, and another one waits for."""
        return Asset(f"{self.usecase}/{name}")

    def step(self, name: str, args: Mapping[str, Any] | None = None, *, skip_unless: str = "", **options: Any) -> Any:
        """A task that does a step of batch/steps.py. args: for its function; results of other tasks may be in there."""
        if self._in_pod(name):
            from riskflow_dags.pods import pod_step

            return pod_step(self, name, args or {}, skip_unless, options).output
        return self._work(name, skip_unless, options)(args=dict(args or {}))

    def mapped(self, name: str, argument: str, over: Any, **options: Any) -> Any:
        """The same once for each value that another task handed over."""
        if self._in_pod(name):
            from riskflow_dags.pods import mapped_pod_step

            return mapped_pod_step(self, name, argument, over, options).output
        work = self._work(name, "", {"map_index_template": "{{ label }}", **options}, argument)
        return work.partial(args={}).expand(value=over)

    def _in_pod(self, name: str) -> bool:
        return in_pod(self.pipeline.file, name) and name not in IN_WORKER

    def _work(self, name: str, skip_unless: str, options: dict[str, Any], argument: str = "") -> Any:
        outlets: Sequence[Any] = options.get("outlets", ())

        @riskflow_task(task_id=name, doc_md=doc_of(name), **options)
        def work(args: dict[str, Any], value: Any = None) -> Any:
            context = get_current_context()
            if argument:
                context["label"] = str(value)  # names the task in the UI
            given = {**args, argument: value} if argument else args
            summary = perform(asked(context, name), given, skip_unless)
            self._announce(context, outlets, summary)
            return summary

        return work

    def _announce(self, context: Mapping[str, Any], outlets: Sequence[Any], summary: Any) -> None:
        """What goes out with an asset's event; a published bundle is an event of the alias that it got."""
        for outlet in outlets:
            if not isinstance(outlet, AssetAlias):
                context["outlet_events"][outlet].extra = {"run": context["run_id"]}
            elif summary.get("alias") in (CHAMPION, CHALLENGER):
                extra = {"version": summary["version"], "hash": summary["hash"]}
                context["outlet_events"][outlet].add(self.asset(summary["alias"]), extra=extra)

    def _schedule(self, asked_when: When, intervals: bool) -> Any:
        cron, assets = asked_when.cron, [self.asset(name) for name in asked_when.assets]
        timetable: Any = None
        if cron:
            timetable = CronDataIntervalTimetable(cron, "UTC") if intervals else _at_its_hours(cron)
        if not assets:
            return timetable
        return AssetOrTimeSchedule(timetable=timetable, assets=AssetAny(*assets)) if timetable else AssetAny(*assets)

    def _deadline(self) -> DeadlineAlert | None:
        """Only where pipeline.yaml asks: `dag.test()` of Airflow 3.3.2 crashes on a DAG that has one."""
        text = self.pipeline.file.deadlines.get(self.kind)
        if text is None:
            return None
        callback = SyncCallback("batch.late.tell_late", {"usecase": self.usecase, "kind": self.kind, "within": text})
        interval = timedelta(milliseconds=duration_ms(text))
        return DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=interval, callback=callback)


def _at_its_hours(cron: str) -> CronTriggerTimetable:
    """At its hours and never before: a DAG that is switched on does not start a run at once."""
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0))


def doc_of(name: str) -> str:
    return (STEPS[name].__doc__ or "").strip() if name in STEPS else "A task of the team's own: see pipeline.yaml."


def hang_own_tasks(maker: Maker, dag: DAG) -> None:
    """Adds the tasks that pipeline.yaml names to the chain."""
    for own in maker.pipeline.file.tasks:
        if own.dag == maker.kind:
            with dag:
                maker.step(own.name)
            after, before = own.ends()
            task = dag.get_task(own.name)
            for name in after:
                dag.get_task(name) >> task
            for name in before:
                task >> dag.get_task(name)


__all__ = ["BUNDLE", "SPAN", "WHY", "Maker", "alert_failed", "doc_of", "hang_own_tasks"]
