"""What pipeline.yaml says about a use case's DAGs: which there are, when they run, where their tasks run.

dags:                                a cron, null (only when somebody asks), false (no such DAG),
  archive: "@hourly"                 or an asset: lake, labels, challenger, champion, drift
  labels: lake
  retrain: ["0 3 * * *", drift]      several: any of them
promotion: at_once                   or: race, or: approval (a race, then a person says yes)
answer_within: 3d                    of that person; no answer is a no
fresh_labels: 1                      labels are announced when so many more events with one have become mature
deadlines: {retrain: 2h}             an alert `late` when a run takes longer; off without a line
pool: {name: training, slots: 2}     Airflow's pool for all tasks; `riskflow pools` makes it
run_in: pod                          each step in a pod of its own; default: worker
pod: {image: risk/riskflow:1, namespace: risk, claim: riskflow-home, requests: {cpu: "1", memory: 2Gi}}
maintain: {compact: true, bundles: 90d, runs: 90d, lake: {scores: 365d}}
tasks:                               a team's own: called with the run, its answer is kept as JSON
  - {name: check_segments, call: usecases.card_fraud.tasks.check_segments, after: judge, before: publish}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from batch.pipeline_promotion import REPLACE
from riskflow.durations import duration_ms
from riskflow.errors import DeclarationError
from riskflow.names import checked

if TYPE_CHECKING:
    from batch.pipeline import PipelineFile

KINDS = ("archive", "labels", "retrain", "promote", "score_batch", "drift", "backtest", "review", "maintain")
LAKE, LABELS, CHALLENGER, CHAMPION, DRIFT = ASSETS = ("lake", "labels", "challenger", "champion", "drift")
AT_ONCE, RACE, APPROVAL = "at_once", "race", "approval"
WORKER, POD = "worker", "pod"
STEPS_OF = {  # the tasks of each DAG that it can have, in order; between approval and crown stand those of the ramp
    "archive": ("archive",),
    "labels": ("labels", "ready"),
    "retrain": ("turn", "archive", "labels", "check", "replay", "train", "judge", "publish", "foretell"),
    "promote": ("race", "winner", "approval", "crown"),
    "score_batch": ("score",),
    "drift": ("drift", "ask_retrain"),
    "backtest": ("prepare", "count_day", "join"),
    "review": ("sample",),
    "maintain": ("take_back_late", "mend", "compact", "drop_old_files", "drop_old_bundles", "drop_old_runs"),
}  # fmt: skip
GO_ON = ("judge", "compact", "drop_old_files")  # a task that failed before them does not stop them
DROPPABLE = ("scores", "rejected", "shadow", "external")  # of what is archived; training and rebuild fold the others

DAY_MS = 86_400_000
Promotion = Literal["at_once", "race", "approval"]
RunIn = Literal["worker", "pod"]
Schedule = bool | str | None | list[str]
Name = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,62}$")]
At = Callable[[str], str]


class Dags(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """When each DAG runs; true: as usual."""

    archive: Schedule = True
    labels: Schedule = True
    retrain: Schedule = True
    promote: Schedule = True
    score_batch: Schedule = True
    drift: Schedule = True
    backtest: Schedule = True
    review: Schedule = True
    maintain: Schedule = True


class Pool(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_.-]{1,250}$")]
    slots: Annotated[int, Meta(ge=1)] = 2


class Pod(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The pod of a step. Steps hand over files, so all of them mount one claim."""

    image: str = ""
    claim: str = ""  # a persistent volume claim, mounted as RISKFLOW_HOME
    namespace: str = "default"
    requests: dict[str, str] = {}  # {cpu: "1", memory: 2Gi}
    limits: dict[str, str] = {}
    env: dict[str, str] = {}
    secrets: list[str] = []  # Kubernetes secrets whose entries become environment variables
    service_account: str | None = None
    steps: list[str] = []  # default: all that run in pods at all


class Maintain(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is cleared away, and when."""

    compact: bool = True
    largest_mb: Annotated[int, Meta(ge=1)] = 128  # of a file that compaction makes, at most about so much
    bundles: str = "90d"  # goes when no alias stands there and no move of this time names it
    runs: str = "90d"  # folders of runs
    lake: dict[str, str] = {}  # topic -> how long its files are kept; default: for good


class UserTask(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A function of the team as a task; it is called with the run and `args`."""

    name: Name
    call: Annotated[str, Meta(pattern=r"^[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)+$")]
    dag: str = "retrain"
    after: str | list[str] = []
    before: str | list[str] = []
    args: dict[str, Any] = {}

    def ends(self) -> tuple[list[str], list[str]]:
        """Tasks that it waits for, and tasks that wait for it."""
        after, before = ([e] if isinstance(e, str) else list(e) for e in (self.after, self.before))
        return after, before


@dataclass(frozen=True)
class When:
    """A DAG's schedule: any of a cron and assets; neither: only when somebody asks."""

    cron: str | None = None
    assets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " or ".join([*([self.cron] if self.cron else []), *self.assets]) or "only on demand"


def when(file: PipelineFile, kind: str) -> When | None:
    """When a use case's DAG of this kind runs; None: there is none."""
    said: Schedule = getattr(file.dags, kind)
    if said is False:
        return None
    if said is True:
        return _usual(file, kind)
    parts = [said] if isinstance(said, str) else said or []
    return When(next((p for p in parts if p not in ASSETS), None), tuple(p for p in parts if p in ASSETS))


def _usual(file: PipelineFile, kind: str) -> When | None:
    if kind == "retrain":
        return When(file.schedule, (DRIFT,) if file.dags.drift is not False else ())
    if kind == "promote":
        return When("0 6 * * *", (CHALLENGER,)) if file.promotion != AT_ONCE else None
    usual = {"archive": When("@hourly"), "labels": When(assets=(LAKE,)), "backtest": When("@weekly")}
    return usual.get(kind, When("@daily"))


def alias_of(file: PipelineFile) -> str:
    """Who a bundle becomes that has passed its gates."""
    return CHAMPION if file.promotion == AT_ONCE else CHALLENGER


def steps_of(file: PipelineFile, kind: str) -> list[str]:
    """The tasks of a DAG with this file, without those of the ramp and the team's own."""
    races = alias_of(file) == CHALLENGER
    there = {"approval": file.promotion == APPROVAL, "turn": races, "foretell": races}
    return [step for step in STEPS_OF[kind] if there.get(step, True)]


def in_pod(file: PipelineFile, step: str) -> bool:
    return file.run_in == POD and (not file.pod.steps or step in file.pod.steps)


# ---- checks ----------------------------------------------------------------------------------------------------------


def checks(file: PipelineFile, at: At) -> list[Callable[[], None]]:
    """Everything that can be wrong with these sections; each check raises DeclarationError."""
    return [
        *(lambda kind=kind: _check_schedule(file, at, kind) for kind in KINDS),
        lambda: check_duration(at("$.answer_within"), file.answer_within),
        *(lambda kind=kind: _check_deadline(file, at, kind) for kind in file.deadlines),
        lambda: _check_pod(file, at),
        lambda: _check_maintain(file.maintain, at),
        lambda: _check_kept_for_learning(file, at),
        lambda: _check_race_may_end(file, at),
        *(lambda i=i: _check_task(file, at, i) for i in range(len(file.tasks))),
    ]


def check_cron(who: str, text: str) -> None:
    from croniter import croniter

    if not (text.startswith("@") or len(text.split()) == 5) or not croniter.is_valid(text):
        raise DeclarationError(
            who, f"{text!r} is neither a cron nor an asset", f"Write 5 fields, @daily, null, or: {', '.join(ASSETS)}"
        )


def check_duration(who: str, text: str) -> None:
    try:
        duration_ms(text)
    except DeclarationError as error:
        raise DeclarationError(who, f"{text!r} {error.found}", error.fix) from None


def _check_schedule(file: PipelineFile, at: At, kind: str) -> None:
    said: Schedule = getattr(file.dags, kind)
    place, emits = f"$.dags.{kind}", {"archive": LAKE, "labels": LABELS, "drift": DRIFT}
    parts = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    for part in parts:
        if part not in ASSETS:
            check_cron(at(place), part)
        elif emits.get(kind) == part:
            raise DeclarationError(at(place), f"{kind} makes {part} itself", "It would start itself again and again")
    if sum(part not in ASSETS for part in parts) > 1:
        raise DeclarationError(at(place), "has several crons", "Keep one")
    if kind == "promote" and said not in (True, False) and file.promotion == AT_ONCE:
        raise DeclarationError(at(place), "there is nothing to promote", "Write promotion: race, or: approval")


def _check_deadline(file: PipelineFile, at: At, kind: str) -> None:
    if kind not in KINDS:
        raise DeclarationError(at(f"$.deadlines.{kind}"), f"{kind!r} is no DAG", f"DAGs: {', '.join(KINDS)}")
    check_duration(at(f"$.deadlines.{kind}"), file.deadlines[kind])


def _check_pod(file: PipelineFile, at: At) -> None:
    known = sorted({step for steps in STEPS_OF.values() for step in steps} | {task.name for task in file.tasks})
    for i, step in enumerate(file.pod.steps):
        if step not in known:
            raise DeclarationError(at(f"$.pod.steps[{i}]"), f"{step!r} is no step", f"Steps: {', '.join(known)}")
    if file.run_in == POD:
        for name, why in (("image", "pods run it"), ("claim", "steps hand over files on it")):
            if not getattr(file.pod, name):
                raise DeclarationError(
                    at("$.run_in"), f"is pod, and pod.{name} is not given", f"Name the {name}: {why}"
                )


def _check_maintain(maintain: Maintain, at: At) -> None:
    for name in ("bundles", "runs"):
        check_duration(at(f"$.maintain.{name}"), getattr(maintain, name))
    for topic, text in maintain.lake.items():
        place = at(f"$.maintain.lake.{topic}")
        if topic not in DROPPABLE:
            raise DeclarationError(
                place,
                "is nothing of the lake that can go: feeds and rows are what training and rebuild fold",
                f"Can go: {', '.join(DROPPABLE)}",
            )
        check_duration(place, text)


def _check_kept_for_learning(file: PipelineFile, at: At) -> None:
    """What a training, or a race, still reads must be there: labels come late, so it looks far back."""
    read = {"scores": ("span", file.span)}
    if file.promotion != AT_ONCE:
        read["shadow"] = ("race.horizon", file.race.horizon)
    for topic, (name, text) in read.items():
        kept = file.maintain.lake.get(topic)
        try:
            maturity_ms = longest_ms(file.maturity, *file.label_maturity.values())
            least_ms = duration_ms(text) + maturity_ms
            enough = kept is None or duration_ms(kept) >= least_ms
        except DeclarationError:
            return  # other checks name the line that is no duration
        if not enough:
            raise DeclarationError(
                at(f"$.maintain.lake.{topic}"),
                f"{kept!r} is shorter than {name} ({text}) and the time that labels take ({maturity_ms // DAY_MS}d)",
                f"Keep it for {-(-least_ms // DAY_MS)}d or longer",
            )


def _check_race_may_end(file: PipelineFile, at: At) -> None:
    """A retraining that comes before a race can be judged takes its challenger's place: none would ever end."""
    race = file.race
    if file.promotion == AT_ONCE or race.meanwhile == REPLACE:
        return
    try:
        maturity_ms = longest_ms(file.maturity, *file.label_maturity.values())
        patience_ms, least_ms = duration_ms(race.patience), duration_ms(race.horizon) + maturity_ms
    except DeclarationError:
        return  # other checks name the line that is no duration
    if patience_ms <= least_ms:
        raise DeclarationError(
            at("$.race.patience"),
            f"{race.patience!r} is not longer than the horizon ({race.horizon}) and the time that labels take "
            f"({maturity_ms // DAY_MS}d), so no race would be judged in time",
            f"Give it {least_ms // DAY_MS + 30}d, say",
        )


def longest_ms(*texts: str) -> int:
    return max(map(duration_ms, texts))


def _check_task(file: PipelineFile, at: At, i: int) -> None:
    task, place = file.tasks[i], f"$.tasks[{i}]"
    checked(task.name, "task")
    if task.dag not in KINDS:
        raise DeclarationError(at(f"{place}.dag"), f"{task.dag!r} is no DAG", f"DAGs: {', '.join(KINDS)}")
    mine = [other.name for other in file.tasks[:i] if other.dag == task.dag]
    steps = steps_of(file, task.dag)
    if task.name in (*steps, *mine):
        raise DeclarationError(at(f"{place}.name"), f"{task.dag} has a task {task.name!r} already", "Name it otherwise")
    for word, names in zip(("after", "before"), task.ends(), strict=True):
        for name in names:
            if name not in (*steps, *mine):
                known = ", ".join((*steps, *mine))
                raise DeclarationError(at(f"{place}.{word}"), f"{task.dag} has no task {name!r} yet", f"Tasks: {known}")
            if word == "before" and name in GO_ON:
                raise DeclarationError(
                    at(f"{place}.before"), f"{name} goes on whatever failed before it", "Hang it before another task"
                )
    if not any(task.ends()):
        raise DeclarationError(at(place), "hangs nowhere", "Say after: or before: which task it runs")
