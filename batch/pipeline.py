"""`pipeline.yaml`: when a use case is trained anew, on what, with which candidates, and what a bundle must pass.

    schedule: "0 3 * * *"        cron or @daily, @weekly; null: only when somebody asks
    span: 28d                    events that are learned from, back from the newest one that is mature
    maturity: 14d                how old an event must be before no label means genuine
    validation: 7d               the newest part of the span: candidates race and gates look there
    folds: 4                     parts of the rest, for out-of-time predictions of lower layers
    candidates: [hist_gradient_boosting, random_forest]       names that models.py knows; default: all
    label_sources: [analyst, chargeback]                      strongest first; others are weaker than these
    label_maturity: {chargeback: 45d}                         how long a source takes, where longer than `maturity`
    checks: {rows: {least: 5000}, ...}                        what data must look like: batch/pipeline_checks.py
    gates: [{gate: not_worse, margin: 0.05}, ...]             what a bundle must pass: batch/gates
    search: {trials: 30}                                      whether better parameters are looked for
    dags: ..., promotion: ..., pool: ..., run_in: ..., tasks: ...        batch/pipeline_dags.py
    race: ..., ramp: ...                                      how a challenger takes over: batch/pipeline_promotion.py
    alerts: {topic: true, webhook: env:TEAM_HOOK}             batch/alerts.py

Every line has a default: see `PipelineFile`, and docs/training.md for what checks and gates there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from batch import pipeline_dags
from batch.alerts import Alerts
from batch.gates import Kind, usual_gates
from batch.gates.base import Place
from batch.pipeline_card import CardText
from batch.pipeline_checks import Checks
from batch.pipeline_dags import Dags, Maintain, Pod, Pool, Promotion, RunIn, UserTask
from batch.pipeline_promotion import RaceFile, RampFile, check_promotion
from batch.pipeline_review import Review
from batch.pipeline_search import SearchFile
from batch.pipeline_watch import Watch
from riskflow.durations import duration_ms
from riskflow.errors import DeclarationError
from riskflow.typed_yaml import Lines, read_typed, where

if TYPE_CHECKING:  # a DAG file reads this at every parse: nothing heavy here
    from riskflow.plan import Plan

FILE = "pipeline.yaml"
Whole = Annotated[int, Meta(ge=1)]


class PipelineFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    schedule: str | None = "@daily"
    span: str = "28d"
    maturity: str = "14d"
    validation: str = "7d"
    folds: Annotated[int, Meta(ge=2, le=20)] = 4
    candidates: list[str] = []
    label_sources: list[str] = []
    label_maturity: dict[str, str] = {}
    declined: Literal["as_labelled", "weighted"] = "weighted"
    top_k: Whole = 100
    retries: Annotated[int, Meta(ge=0, le=10)] = 1
    checks: Checks = Checks()
    review: Review = Review()
    gates: list[Kind] = msgspec.field(default_factory=usual_gates)
    search: SearchFile = SearchFile()
    alerts: Alerts = Alerts()
    watch: Watch = Watch()
    card: CardText = CardText()
    dags: Dags = Dags()
    promotion: Promotion = "at_once"
    answer_within: str = "3d"
    race: RaceFile = RaceFile()
    ramp: RampFile = RampFile()
    fresh_labels: Whole = 1
    deadlines: dict[str, str] = {}
    pool: Pool | None = None
    run_in: RunIn = "worker"
    pod: Pod = Pod()
    maintain: Maintain = Maintain()
    tasks: list[UserTask] = []


@dataclass(frozen=True)
class Pipeline:
    """A team's pipeline.yaml, checked for itself; `check` also holds it against a plan."""

    file: PipelineFile = field(default_factory=PipelineFile)
    path: Path = Path(FILE)
    lines: Lines | None = None

    @classmethod
    def load(cls, path: Path) -> Pipeline:
        """Reads the file; raises DeclarationError naming file, line and fix."""
        pipeline = cls(*_read(path))
        pipeline._check_alone()
        return pipeline

    @classmethod
    def of(cls, plan: Plan) -> Pipeline:
        """The plan's own pipeline.yaml, held against its models; the defaults where it has none."""
        path = plan.usecase.folder / FILE
        pipeline = cls.load(path) if path.is_file() else cls()
        pipeline.check(plan)
        return pipeline

    @property
    def span_ms(self) -> int:
        return duration_ms(self.file.span)

    @property
    def maturity_ms(self) -> int:
        """How old an event must be: each source of labels has had its time then, so that silence means genuine."""
        return pipeline_dags.longest_ms(self.file.maturity, *self.file.label_maturity.values())

    @property
    def validation_ms(self) -> int:
        return duration_ms(self.file.validation)

    @property
    def gates(self) -> list[Kind]:
        return self.file.gates

    def learning_from(self, days: int) -> Pipeline:
        """The same with another span; what somebody asks for once."""
        return replace(self, file=msgspec.structs.replace(self.file, span=f"{days}d"))

    def at(self, place: str) -> str:
        return where(self.path, self.lines or {}, place)

    def candidates(self, plan: Plan) -> list[str]:
        """Names of the candidates that race: those of this file, else every name that a model knows."""
        return list(self.file.candidates) or known_candidates(plan)

    def check(self, plan: Plan) -> None:
        """Every candidate must be known to a model; checks and gates speak of fields and features that there are."""
        known = known_candidates(plan)
        for i, name in enumerate(self.file.candidates):
            if name not in known:
                raise DeclarationError(
                    self.at(f"$.candidates[{i}]"),
                    f"{name!r} is a candidate of no model",
                    f"Known: {', '.join(known) or 'none'}",
                )
        types = plan.scored.types
        numbers = [name for name, kind in types.items() if kind.kind == "number"]
        self.file.checks.check(numbers, list(types), self._within("$.checks"))
        for i, gate in enumerate(self.gates):
            gate.check(plan, self._within(f"$.gates[{i}]"))

    def _within(self, place: str) -> Place:
        """File and line of what stands below a place."""
        return lambda name: self.at(f"{place}.{name}" if name else place)

    def problems(self) -> Iterator[DeclarationError]:
        """Everything that is wrong with the file as it stands; what needs a plan is in `check`."""
        for check in self._checks():
            try:
                check()
            except DeclarationError as error:
                yield error

    def _check_alone(self) -> None:
        for check in self._checks():
            check()

    def _checks(self) -> list[Callable[[], None]]:
        """Everything that can be wrong with the file by itself, one by one."""
        return [
            self._check_schedule,
            self._check_span,
            self._check_twice,
            self._check_warm_start,
            lambda: self.file.alerts.check(self.at),
            lambda: self.file.watch.check(self.at),
            lambda: check_promotion(self.file.race, self.file.ramp, self.at),
            *pipeline_dags.checks(self.file, self.at),
        ]

    def _check_schedule(self) -> None:
        if self.file.schedule is not None:
            pipeline_dags.check_cron(self.at("$.schedule"), self.file.schedule)

    def _check_span(self) -> None:
        for name in ("span", "maturity", "validation"):
            pipeline_dags.check_duration(self.at(f"$.{name}"), getattr(self.file, name))
        if self.file.search.gap is not None:
            pipeline_dags.check_duration(self.at("$.search.gap"), self.file.search.gap)
        if self.validation_ms > self.span_ms // 2:
            raise DeclarationError(
                self.at("$.validation"), f"is more than half of the span ({self.file.span})", "Make it shorter"
            )
        for source, text in self.file.label_maturity.items():
            pipeline_dags.check_duration(self.at(f"$.label_maturity.{source}"), text)

    def _check_twice(self) -> None:
        for i, name in enumerate(self.file.candidates):
            if name in self.file.candidates[:i]:
                raise DeclarationError(self.at(f"$.candidates[{i}]"), f"{name!r} is there twice", "Keep one")

    def _check_warm_start(self) -> None:
        named = self.file.search.warm_start
        if isinstance(named, str):
            from riskflow.moves import is_alias

            if not is_alias(named):
                raise DeclarationError(
                    self.at("$.search.warm_start"), f"{named!r} is no alias", "A version, or an alias such as champion"
                )


def known_candidates(plan: Plan) -> list[str]:
    """What can race: the candidates of every model that has several, the last layer's first; else the only one."""
    models = [plan.usecase.models[name] for name in reversed(plan.models)]
    several = [model for model in models if len(model.candidates) > 1] or models[:1]
    return list(dict.fromkeys(name for model in several for name in model.candidates))


def _read(path: Path) -> tuple[PipelineFile, Path, Lines]:
    file, lines = read_typed(path, PipelineFile)
    return file, path, lines
