"""`pipeline.yaml`: when a use case is trained anew, on what, with which candidates, and what a bundle must pass.

    schedule: "0 3 * * *"        cron or @daily, @weekly; null: only when somebody asks
    span: 28d                    events that are learned from, back from the newest one that is mature
    maturity: 14d                how old an event must be before no label means genuine
    validation: 7d               the newest part of the span: candidates race and gates look there
    folds: 4                     parts of the rest, for out-of-time predictions of lower layers
    candidates: [hist_gradient_boosting, random_forest]       names that models.py knows; default: all
    label_sources: [analyst, chargeback]                      strongest first; others are weaker than these
    gates: {average_precision: 0.95, onnx_parity: 1.0e-5, ...}

Every line has a default: see `PipelineFile` and `Gates`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from batch.alerts import Alerts
from batch.pipeline_card import CardText
from batch.pipeline_watch import Watch
from riskflow.durations import duration_ms
from riskflow.errors import DeclarationError
from riskflow.typed_yaml import Lines, read_typed, where

if TYPE_CHECKING:  # a DAG file reads this at every parse: nothing heavy here
    from riskflow.plan import Plan

FILE = "pipeline.yaml"
Share = Annotated[float, Meta(ge=0, le=1)]
Whole = Annotated[int, Meta(ge=1)]


class Gates(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a bundle must reach before it is published."""

    average_precision: Annotated[float, Meta(gt=0)] = 0.95  # at least this part of the champion's, on the same rows
    onnx_parity: Annotated[float, Meta(gt=0)] = 1e-5  # largest difference between scikit-learn and ONNX
    fewest_rows: Whole = 2_000
    fewest_frauds: Whole = 20  # in the validation span as well
    lowest_label_rate: Share = 0.0002
    highest_label_rate: Share = 0.2
    most_missing: Share = 0.995  # of any input of a model


class PipelineFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    schedule: str | None = "@daily"
    span: str = "28d"
    maturity: str = "14d"
    validation: str = "7d"
    folds: Annotated[int, Meta(ge=2, le=20)] = 4
    candidates: list[str] = []
    label_sources: list[str] = []
    top_k: Whole = 100
    retries: Annotated[int, Meta(ge=0, le=10)] = 1
    gates: Gates = Gates()
    alerts: Alerts = Alerts()
    watch: Watch = Watch()
    card: CardText = CardText()


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
        return duration_ms(self.file.maturity)

    @property
    def validation_ms(self) -> int:
        return duration_ms(self.file.validation)

    @property
    def gates(self) -> Gates:
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
        """Every candidate must be known to a model."""
        known = known_candidates(plan)
        for i, name in enumerate(self.file.candidates):
            if name not in known:
                raise DeclarationError(
                    self.at(f"$.candidates[{i}]"),
                    f"{name!r} is a candidate of no model",
                    f"Known: {', '.join(known) or 'none'}",
                )

    def _check_alone(self) -> None:
        for name in ("span", "maturity", "validation"):
            _check_duration(self.at(f"$.{name}"), getattr(self.file, name))
        if self.validation_ms > self.span_ms // 2:
            raise DeclarationError(
                self.at("$.validation"), f"is more than half of the span ({self.file.span})", "Make it shorter"
            )
        self.file.alerts.check(self.at)
        self.file.watch.check(self.at)
        gates = self.gates
        if gates.lowest_label_rate > gates.highest_label_rate:
            raise DeclarationError(self.at("$.gates.lowest_label_rate"), "is above highest_label_rate", "Swap them")
        for i, name in enumerate(self.file.candidates):
            if name in self.file.candidates[:i]:
                raise DeclarationError(self.at(f"$.candidates[{i}]"), f"{name!r} is there twice", "Keep one")


def known_candidates(plan: Plan) -> list[str]:
    """What can race: the candidates of every model that has several, the last layer's first; else the only one."""
    models = [plan.usecase.models[name] for name in reversed(plan.models)]
    several = [model for model in models if len(model.candidates) > 1] or models[:1]
    return list(dict.fromkeys(name for model in several for name in model.candidates))


def _read(path: Path) -> tuple[PipelineFile, Path, Lines]:
    file, lines = read_typed(path, PipelineFile)
    return file, path, lines


def _check_duration(who: str, text: str) -> None:
    try:
        duration_ms(text)
    except DeclarationError as error:
        raise DeclarationError(who, f"{text!r} {error.found}", error.fix) from None
