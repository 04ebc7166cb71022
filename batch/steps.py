"""What the tasks of a use case's DAGs do: one function for each, the same in Airflow's worker, in a pod, and by hand.

    perform(Asked("card_fraud", "retrain", "check", "manual__1"), {})         riskflow step ...

A function takes the run and what was asked for, and returns a small JSON summary; data lies as files in the run's
folder. Its docstring is what Airflow shows.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from batch.task_runs import Skipped, TaskRun
from riskflow.errors import DeclarationError, RiskflowError

if TYPE_CHECKING:  # a DAG file reads this at every parse: nothing heavy here
    from batch.run import Run

Summary = Any
Function = Callable[..., Summary]


@dataclass(frozen=True)
class Asked:
    """Which step of which run, and what was asked for; all of it JSON, as a pod is told it in words."""

    usecase: str
    kind: str  # of the DAG
    step: str
    run_id: str
    params: Mapping[str, Any] = field(default_factory=dict)
    from_ms: int | None = None  # the run's data interval
    to_ms: int | None = None
    who: str = "somebody"
    map_index: int = -1
    attempt: int = 1
    causes: list[str] = field(default_factory=list)  # assets that started the run; else Airflow's word, as scheduled

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Asked:
        """Raises DeclarationError for anything that `to_json` did not write."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise DeclarationError("--asked", f"cannot be read ({error})", "It is what a DAG writes") from None

    def task_run(self, label: str = "") -> TaskRun:
        """What its record begins with."""
        dag, folder = f"{self.usecase}_{self.kind}", run_name(self.kind, self.run_id)
        return TaskRun(self.usecase, folder, self.step, dag, self.run_id, self.map_index, self.attempt, label)


def run_name(kind: str, run_id: str) -> str:
    """The folder of a run; a retraining has the name that Airflow gave it."""
    name = run_id if kind == "retrain" else f"{kind}__{run_id}"
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:120] or "run"


def perform(asked: Asked, args: Mapping[str, Any], skip_unless: str = "") -> Summary:
    """Does a step, or a team's own task. Raises Skipped when the summary has nothing under `skip_unless`."""
    run = run_of(asked)
    task = next((t for t in run.pipeline.file.tasks if (t.dag, t.name) == (asked.kind, asked.step)), None)
    summary = user_function(task.call)(run, **task.args) if task else step(asked.step)(run, asked, **args)
    if skip_unless and not summary.get(skip_unless):
        raise Skipped(f"{asked.step}: nothing to go on with: {summary}")
    return summary


def run_of(asked: Asked) -> Run:
    """The run that a task belongs to."""
    from batch.run import Run
    from riskflow.plan import Plan
    from riskflow.settings import settings
    from riskflow.usecase import load_usecase

    conf = settings()
    plan = Plan.of(load_usecase(asked.usecase, conf.usecases))
    run = Run.of(plan, conf, run_name(asked.kind, asked.run_id))
    days = asked.params.get("train_days")
    return replace(run, pipeline=run.pipeline.learning_from(days)) if days else run


def user_function(path: str) -> Function:
    """A team's own function; raises DeclarationError where there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DeclarationError(f"call {path}", f"cannot be found ({error})", "Name module.function") from None
    if not callable(found):
        raise DeclarationError(f"call {path}", "is no function", "Name module.function")
    return found  # type: ignore[no-any-return]


def step(name: str) -> Function:
    """A step by name; raises RiskflowError for an unknown one."""
    if name not in STEPS:
        raise RiskflowError(f"there is no step {name!r}. Steps: {', '.join(STEPS)}")
    return STEPS[name]


# ---- archive, labels -------------------------------------------------------------------------------------------------


def archive(run: Run, asked: Asked) -> Summary:
    """Brings the lake up to the ends of the topics. Done again, it adds what is new."""
    from batch import retrain

    return retrain.archive(run)


def labels(run: Run, asked: Asked) -> Summary:
    """Completes labels that came without the event's customer or terminal, and sends them once more."""
    from batch.labels import complete_labels

    return complete_labels(run.plan, run.conf, fresh=False).summary()


def ready(run: Run, asked: Asked) -> Summary:
    """Counts events with a label that have become mature since labels were last announced."""
    from batch.ready import fresh_labels

    return fresh_labels(run)


# ---- retrain ---------------------------------------------------------------------------------------------------------


def turn(run: Run, asked: Asked) -> Summary:
    """Whether it is this retraining's turn. While challengers race it waits for their verdict: all that comes after is
    skipped, unless drift has asked for it for the first time, or somebody who named an alias.
    """
    from batch.turn import RaceRuns, alias_for

    try:
        return {"alias": alias_for(run, asked.params.get("alias"), asked.causes)}
    except RaceRuns as waits:
        raise Skipped(str(waits)) from None


def check(run: Run, asked: Asked) -> Summary:
    """Looks whether enough was archived, with labels as usual, before anything expensive begins."""
    from batch import retrain

    return retrain.check(run)


def replay(run: Run, asked: Asked) -> list[str]:
    """Works out the features of every row through the kernel, and hands over the names of those who will race."""
    from batch import retrain

    print(retrain.replay_frame(run))
    return list(run.candidates)


def train(run: Run, asked: Asked, candidate: str) -> Summary:
    """Trains one candidate: out of time for the race, then for good. One that fails is out; the others race."""
    from batch import retrain

    return retrain.train(run, candidate)


def judge(run: Run, asked: Asked) -> Summary:
    """Takes the best candidate, makes its bundle, and writes the verdict: figures, gates, beside the champion."""
    from batch import retrain

    return retrain.judge_run(run)


def publish(run: Run, asked: Asked, turned: Mapping[str, Any] | None = None) -> Summary:
    """Signs and publishes the bundle and moves the alias; or fails with the refusal that names the gate."""
    from batch import retrain
    from batch.pipeline_dags import alias_of

    alias = turned["alias"] if turned else asked.params.get("alias") or alias_of(run.pipeline.file)
    return retrain.publish_run(run, who=asked.who, why=str(asked.params.get("why", "")), alias=alias)


def foretell(run: Run, asked: Asked) -> Summary:
    """Backtests what was published over the last whole days, so that it can be held against what comes."""
    from batch import past_steps

    return past_steps.foretell(run)


# ---- promote ---------------------------------------------------------------------------------------------------------


def race(run: Run, asked: Asked) -> Summary:
    """Holds the challengers against the champion on matured labels."""
    from batch import promote

    return promote.race(run)


def reject(run: Run, asked: Asked, raced: Mapping[str, Any], answer: Mapping[str, Any]) -> Summary:
    """Takes the winner out of the race, because a person said no or nobody answered: it is not asked for again."""
    from batch import promote

    who, why = _answered(answer)
    return promote.reject(run, raced, who or asked.who, why or ("no reason given" if who else "nobody answered"))


def ramp(run: Run, asked: Asked, raced: Mapping[str, Any], share: float) -> Summary:
    """Lets the winner decide for a share of the entities."""
    from batch import promote

    return promote.ramp(run, raced, share)


def guard(run: Run, asked: Asked, raced: Mapping[str, Any]) -> Summary:
    """Looks at what the share has shown; where it differs by too much, or cannot be seen, the canary is taken back."""
    from batch import promote

    return promote.guard(run, raced)


def crown(run: Run, asked: Asked, raced: Mapping[str, Any], answer: Mapping[str, Any] | None = None) -> Summary:
    """Makes the winner champion, and takes the canary off. answer: of the person who approved."""
    from batch import promote

    who, said = _answered(answer or {})
    why = said or asked.params.get("why") or f"won the race of run {run.name}"
    return promote.crown(run, raced, who or asked.who, str(why))


def _answered(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Who answered Airflow's question, and the reason; empty where nobody did."""
    person = answer.get("responded_by_user") or {}
    who = f"airflow: {person.get('name') or person.get('id')}" if person else ""
    return who, str((answer.get("params_input") or {}).get("why") or "")


def take_back(run: Run, asked: Asked) -> Summary:
    """Takes the canary off when its ramp has ended without a crown: the champion decides everything again."""
    from batch import promote

    return promote.take_back(run, f"Its ramp has ended without a crown (run {run.name})")


# ---- the past --------------------------------------------------------------------------------------------------------


def score(run: Run, asked: Asked) -> Summary:
    """Scores the archived events of the run's span with a bundle, to Parquet: the bits that the stream gives."""
    from batch import past_steps

    return past_steps.score(run, past_steps.wish_of(run, asked.params, asked.from_ms, asked.to_ms))


def prepare(run: Run, asked: Asked) -> list[str]:
    """Reads the span's events and splits them by day; hands over the days."""
    from batch import past_steps

    return past_steps.prepare(run, past_steps.wish_of(run, asked.params, asked.from_ms, asked.to_ms))


def count_day(run: Run, asked: Asked, day: str) -> Summary:
    """Scores, decides and counts one day."""
    from batch import backtest_parts

    return {"day": day, "events": backtest_parts.count_day(run, day)}


def join(run: Run, asked: Asked) -> Summary:
    """Joins the days to one backtest and keeps its forecast."""
    from batch import backtest_parts

    return backtest_parts.join(run).summary()


# ---- people, watching, clearing away ---------------------------------------------------------------------------------


def sample(run: Run, asked: Asked) -> Summary:
    """Draws uncertain and random events from what was scored since the last sample, for people to look at."""
    from batch.review_sample import review_step

    return review_step(run)


def drift(run: Run, asked: Asked) -> Summary:
    """Holds what was scored lately against what the champion was made from."""
    from batch.drift import drift_step

    return drift_step(run)


def mend(run: Run, asked: Asked) -> Summary:
    """Sets files of the lake aside that cannot be read; the next archive brings their offsets again."""
    from batch.mend import mend as mend_lake

    return mend_lake(run.plan, run.conf).summary()


def compact(run: Run, asked: Asked) -> Summary:
    """Makes one file of many small ones of a topic and day."""
    from batch.compact import compact as compact_lake

    return compact_lake(run.plan, run.conf, run.pipeline.file.maintain)


def drop_old_files(run: Run, asked: Asked) -> Summary:
    """Drops files of the lake that pipeline.yaml gives a time to."""
    from batch.retention import drop_old_files as drop

    return drop(run.plan, run.conf, run.pipeline.file.maintain)


def drop_old_bundles(run: Run, asked: Asked) -> Summary:
    """Drops bundles from Redis that no alias, no recent move and no worker names."""
    from batch.retention import drop_old_bundles as drop

    return drop(run)


def take_back_late(run: Run, asked: Asked) -> Summary:
    """Takes off a canary whose guard has been silent for longer than its patience."""
    from batch import promote

    return promote.take_back_late(run)


def drop_old_runs(run: Run, asked: Asked) -> Summary:
    """Drops folders of runs that nobody touched for long."""
    from batch.retention import drop_old_runs as drop

    return drop(run)


STEPS: dict[str, Function] = {
    f.__name__: f
    for f in (
        turn, archive, labels, ready, check, replay, train, judge, publish, foretell, race, reject, ramp, guard, crown,
        take_back, score, prepare, count_day, join, sample, drift, take_back_late, mend, compact, drop_old_files,
        drop_old_bundles, drop_old_runs,
    )
}  # fmt: skip
