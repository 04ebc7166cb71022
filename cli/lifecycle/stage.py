"""What the steps of a life share, beyond what the demo's share: the weather, Airflow, and what was found by each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cli.demo.stage import Stage
from riskflow.errors import RiskflowError

if TYPE_CHECKING:
    from batch.airflow_client import Airflow
    from batch.pipeline import Pipeline
    from cli.demo.processes import Keeper
    from cli.lifecycle.weather import Weather
    from riskflow.registry import Registry

USECASE = "town"
RATE = 270.0  # events a second: a day of the town in three seconds
CUSTOMERS, PER_DAY = 200, 4.0
HISTORY_DAYS, FUTURE_DAYS = 24, 400
RUN_S = 240.0  # patience with one run of a DAG


class NotAsItShould(RiskflowError):
    """A step found something else than what has to come out; the message says what."""


@dataclass
class Life(Stage):
    """`quick`: drift and a bad training set meet in one retraining."""

    quick: bool = False
    weather: Weather = field(init=False)
    keeper: Keeper = field(init=False)
    airflow: Airflow = field(init=False)
    first: int = 0  # versions
    second: int = 0
    found: dict[str, Any] = field(default_factory=dict)  # what each step asserted

    @property
    def pipeline(self) -> Pipeline:
        from batch.pipeline import Pipeline

        return Pipeline.of(self.plan)

    def registry(self) -> Registry:
        from riskflow.connect import connect
        from riskflow.registry import Registry

        return Registry(connect(self.conf.redis_url), self.names)


def must(holds: bool, what: str) -> None:
    """Raises NotAsItShould."""
    if not holds:
        raise NotAsItShould(what)


def follow(stage: Life, kind: str, run_id: str, *, until_waiting: str = "") -> str:
    """Waits for the end of a DAG's run, the stream watched; or until a task of it waits for a person. Its state."""
    from batch.airflow_client import ENDED
    from cli.demo.flow import watch

    dag_id, state, asked = f"{USECASE}_{kind}", "", 0.0

    def over() -> bool:
        nonlocal state, asked
        if time.monotonic() < asked:
            return False
        asked = time.monotonic() + 0.5
        state = stage.airflow.run(dag_id, run_id)["state"]
        if until_waiting and any(
            t.task_id == until_waiting and t.state == "awaiting_input" for t in stage.airflow.tasks(dag_id, run_id)
        ):
            state = "awaiting_input"
        return state in (*ENDED, "awaiting_input")

    watch(stage, over, RUN_S, f"the end of {dag_id}, run {run_id}")
    return state


def failed(stage: Life, kind: str, run_id: str) -> str:
    """The tasks of a run that failed."""
    tasks = stage.airflow.tasks(f"{USECASE}_{kind}", run_id)
    return ", ".join(t.name for t in tasks if t.state == "failed") or "no task failed"
