"""Learns a use case's models: candidates race on the newest part of the span, the winner learns from all of it.

A *candidate* is one name in `Model(candidates=...)`. It goes through all layers at once: a layer that does not know the
name takes its first one. Upper layers learn from out-of-time outputs of lower ones: the span is cut by time into parts,
and each part is predicted by a model that learned from the parts before it. The first part has no such outputs; upper
layers leave it out.

A candidate's factory takes `inputs` if it wants to, the names of the columns of its matrix, in order; and what a search
may have found as keyword arguments.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.export import onnx_parity, to_onnx
from batch.files import write_text
from batch.given import Given
from batch.metrics import average_precision
from batch.recipes import make, recipe
from batch.training_set import TrainingSet
from batch.weights import fit
from riskflow.columns import F8, Column, Text
from riskflow.declare import TEXT
from riskflow.errors import RiskflowError
from riskflow.plan import MODEL, Plan
from riskflow.scoring import TextCodes, model_matrix

Parts = NDArray[np.int64]
Dictionaries = dict[str, list[str]]
MOST_WORDS = 1_000  # of a text field's dictionary
FEWEST_FRAUDS = 5  # before a part of the span, for a model to be worth fitting
LONGEST_VALIDATION = 2 / 7  # of the span, when that is shorter than pipeline.yaml expects
PARITY_ROWS = 20_000


@dataclass
class Trained:
    """One candidate. `outputs` are the last layer's out-of-time outputs on the validation rows.

    `models` holds ONNX of every layer, learned from the whole span; empty until the candidate has won. `transferred`
    names the layers among them that came from other bundles. `notes` go into the bundle's metrics: how each layer was
    made, and what a search found.
    """

    candidate: str
    outputs: F8
    average_precision: float
    dictionaries: Dictionaries
    seconds: float = 0.0
    models: dict[str, bytes] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)
    transferred: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    estimators: dict[str, Any] = field(default_factory=dict, repr=False)  # not handed over between tasks

    @property
    def furthest(self) -> float:
        """The largest difference between a layer and its ONNX file."""
        return max(self.parity.values(), default=0.0)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.models.items():
            (folder / f"{name}.onnx").write_bytes(content)
        np.save(folder / "outputs.npy", self.outputs)
        write_text(folder / "trained.json", json.dumps({name: getattr(self, name) for name in _AS_JSON}))

    @classmethod
    def read(cls, folder: Path) -> Trained:
        about = json.loads((folder / "trained.json").read_text())
        models = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.onnx"))}
        return cls(outputs=np.load(folder / "outputs.npy"), models=models, **about)


_AS_JSON = ("candidate", "average_precision", "dictionaries", "seconds", "parity", "transferred", "notes")


@dataclass(frozen=True)
class Span:
    """The parts of a training span. The last part is the validation span."""

    edges_ms: tuple[int, ...]

    @classmethod
    def of(cls, data: TrainingSet, validation_ms: int, folds: int) -> Span:
        """`folds` parts, the first twice as long since the others learn from it, then the validation span."""
        first, end = int(data.at_ms[0]), int(data.at_ms[-1]) + 1
        cut = end - min(validation_ms, int((end - first) * LONGEST_VALIDATION))
        inner = np.linspace(first, cut, folds + 2).astype(np.int64).tolist()
        return cls((inner[0], *inner[2:], end))

    @property
    def last(self) -> int:
        return len(self.edges_ms) - 2

    def part(self, data: TrainingSet) -> Parts:
        """The number of the part in which each row lies."""
        return np.searchsorted(self.edges_ms[1:-1], data.at_ms, side="right").astype(np.int64)

    def validation(self, data: TrainingSet) -> TrainingSet:
        return data.rows(self.part(data) == self.last)


def train(
    plan: Plan, data: TrainingSet, span: Span, candidates: Sequence[str], given: Given | None = None
) -> list[Trained]:
    """Races the candidates; the best one comes first and has its models. Raises RiskflowError without enough frauds."""
    if not plan.models:
        raise RiskflowError(
            f"{plan.name} has no models to train. Declare one in models.py, or publish its rules alone: "
            f"riskflow models rules --usecase {plan.name}"
        )
    learner = Learner(plan, data, span, given)
    if learner.given.search is not None:
        learner.given.search.find(learner, candidates)
    raced = sorted((learner.race(name) for name in candidates), key=lambda t: -t.average_precision)
    learner.refit(raced[0])
    return raced


def one_thread() -> Any:
    """OpenMP threads that wait for each other on a busy machine cost more than they save."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


class Learner:
    """Fits candidates on one training set. What two candidates share in lower layers is fitted once.

    `parameters` are a layer's keyword arguments instead of its factory's defaults, by the layer's key.
    """

    def __init__(self, plan: Plan, data: TrainingSet, span: Span, given: Given | None = None) -> None:
        _check_enough(data)
        self.plan, self.data, self.given = plan, data, given or Given()
        self.part, self.last, self.edges_ms = span.part(data), span.last, span.edges_ms
        self.dictionaries = {**fit_dictionaries(plan, data), **self.given.dictionaries}
        self.values = input_values(plan, data.columns, self.dictionaries, self.given.transferred_layers)
        self.listened = {i for m in plan.models for i in plan.model_inputs(m) if i in plan.models}
        self.parameters: dict[str, dict[str, Any]] = {}
        self._outputs: dict[str, F8] = {}
        self._transferred = self.given.outputs(plan, self.values, data, span.edges_ms[-2])

    def race(self, candidate: str) -> Trained:
        """The candidate's out-of-time outputs, layer after layer, and how well the last one ranks validation rows."""
        started = time.monotonic()
        for name in self.plan.models:
            self._out_of_time(name, candidate)
        validation = self.part == self.last
        outputs = self._out_of_time(str(self.plan.final_model), candidate)[validation]
        fraud = self.data.fraud[validation]
        if np.isnan(outputs).any() or not fraud.any():
            raise RiskflowError(
                f"{self.plan.name}: {int(fraud.sum())} frauds in the validation span, or too few before it to "
                "learn from. Give a longer span in pipeline.yaml"
            )
        reached = self._average_precision(validation, outputs)
        seconds = time.monotonic() - started
        return Trained(candidate, outputs, reached, self.dictionaries, seconds, notes=self._notes(candidate))

    def refit(self, trained: Trained) -> None:
        """Fits every layer of a candidate on the whole span and adds its models; kept ones are added as they are."""
        from riskflow.estimators import register_converters

        started = time.monotonic()
        register_converters()
        for name in self.plan.models:
            if name in self.given.kept_models:
                trained.models[name] = self.given.kept_models[name]
                continue
            matrix, usable = self._matrix(name, trained.candidate)
            estimator = self._fit(name, trained.candidate, matrix, usable)
            content = to_onnx(estimator, matrix.shape[1])
            trained.parity[name] = onnx_parity(estimator, content, matrix[usable][-PARITY_ROWS:])
            trained.models[name], trained.estimators[name] = content, estimator
        trained.models.update(self.given.transferred_models)
        trained.transferred = self.given.transferred_layers
        trained.seconds += time.monotonic() - started

    def part_scores(self, name: str, candidate: str, parameters: Mapping[str, Any], gap_ms: int = 0) -> Iterator[float]:
        """Average precision of one layer with such parameters in each part before the validation span.

        Each part is predicted by a model that learned from rows at least gap_ms older than its beginning.
        """
        matrix, usable = self._matrix(name, candidate)
        for part in range(1, self.last):
            before, now = usable & (self.data.at_ms < self.edges_ms[part] - gap_ms), usable & (self.part == part)
            if self._enough(before) and self.data.fraud[now].any():
                outputs = self._fit(name, candidate, matrix, before, parameters).predict_proba(matrix[now])[:, 1]
                yield self._average_precision(now, outputs)

    def choice(self, name: str, candidate: str) -> str:
        """The name of what a layer is made by when this candidate runs."""
        if name in self.given.choices:
            return self.given.choices[name]
        known = self.plan.usecase.models[name].candidates
        return candidate if candidate in known else next(iter(known))

    def key(self, name: str, candidate: str) -> str:
        """A layer with the choices made in it and below it."""
        below = [self.key(i, candidate) for i in self.plan.model_inputs(name) if i in self.plan.models]
        return f"{name}={self.choice(name, candidate)}({','.join(below)})"

    def factory(self, name: str, candidate: str) -> Any:
        return self.plan.usecase.models[name].candidates[self.choice(name, candidate)]

    def digest(self, name: str, candidate: str) -> str:
        """A hash over all that `part_scores` looks at."""
        matrix, usable = self._matrix(name, candidate)
        seen = self.part < self.last
        hashed = hashlib.sha256()
        weights = [] if self.data.weight is None else [self.data.weight]
        for column in (matrix, usable, self.part, self.data.at_ms, self.data.fraud, *weights):
            hashed.update(np.ascontiguousarray(column[seen]).tobytes())
        return hashed.hexdigest()

    def _out_of_time(self, name: str, candidate: str) -> F8:
        """Outputs of one layer by models that learned from earlier parts only; NaN where there are none."""
        key = self.key(name, candidate)
        if key not in self._outputs:
            matrix, usable = self._matrix(name, candidate)
            outputs = np.full(len(self.data), np.nan)
            for part in range(1, self.last + 1) if name in self.listened else [self.last]:
                before, now = usable & (self.part < part), usable & (self.part == part)
                if self._enough(before) and now.any():
                    outputs[now] = self._fit(name, candidate, matrix, before).predict_proba(matrix[now])[:, 1]
            self._outputs[key] = outputs
        return self._outputs[key]

    def _average_precision(self, rows: NDArray[np.bool_], outputs: F8) -> float:
        weight = None if self.data.weight is None else self.data.weight[rows]
        return average_precision(outputs, self.data.fraud[rows], weight) or 0.0

    def _enough(self, rows: NDArray[np.bool_]) -> bool:
        return bool(self.data.fraud[rows].sum() >= FEWEST_FRAUDS)

    def _matrix(self, name: str, candidate: str) -> tuple[Any, NDArray[np.bool_]]:
        """Inputs of a layer for all rows, and which of them have out-of-time outputs of every lower layer."""
        inputs = self.plan.model_inputs(name)
        lower = {i: self._out_of_time(i, candidate) for i in inputs if i in self.plan.models}
        lower |= {i: self._transferred[i] for i in inputs if i in self._transferred}
        matrix = model_matrix(inputs, {**self.values, **lower}, len(self.data))[: len(self.data)]
        usable = np.ones(len(self.data), np.bool_)
        for output in lower.values():
            usable &= ~np.isnan(output)
        return matrix, usable

    def _fit(
        self,
        name: str,
        candidate: str,
        matrix: Any,
        rows: NDArray[np.bool_],
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:
        """An estimator that learned from these rows; with the layer's own parameters, unless others are given."""
        if parameters is None:
            parameters = self._parameters(name, candidate)
        estimator = make(self.factory(name, candidate), self.plan.model_inputs(name), parameters)
        with one_thread():
            target, weight = self.data.fraud[rows].astype(np.int64), self.data.weight
            fitted = fit(estimator, _never_empty(matrix[rows]), target, None if weight is None else weight[rows])
            return _on_one_thread(fitted)

    def _parameters(self, name: str, candidate: str) -> dict[str, Any]:
        return self.parameters.get(self.key(name, candidate), self.given.parameters.get(name, {}))

    def _notes(self, candidate: str) -> dict[str, Any]:
        """How each layer was made, for the bundle's metrics."""
        layers = {
            name: {
                "candidate": self.choice(name, candidate),
                "recipe": recipe(self.factory(name, candidate)),
                "parameters": self._parameters(name, candidate),
            }
            for name in self.plan.models
        }
        return {"layers": layers, **self.given.notes([self.key(name, candidate) for name in self.plan.models])}


def _on_one_thread(estimator: Any) -> Any:
    """Several threads add a forest's trees in any order, so the last bit of its outputs would be left to chance."""
    jobs = [p for p in estimator.get_params() if p.split("__")[-1] == "n_jobs"]
    return estimator.set_params(**dict.fromkeys(jobs, 1))


def _never_empty(matrix: Any) -> Any:
    """A column without any value becomes 0: boosted trees cannot bin it, and there is nothing to learn from it."""
    empty = np.isnan(matrix).all(axis=0)
    if empty.any():
        matrix = matrix.copy()
        matrix[:, empty] = 0.0
    return matrix


def _check_enough(data: TrainingSet) -> None:
    if data.frauds < 2 * FEWEST_FRAUDS or data.frauds == len(data):
        raise RiskflowError(
            f"{len(data)} rows to learn from, {data.frauds} of them frauds: both classes are needed. "
            "Give a longer span, or labels that cover it"
        )


# ---- inputs as numbers -----------------------------------------------------------------------------------------------


def outside_inputs(plan: Plan, transferred: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Inputs of all models that are not models themselves; transferred: layers {name, inputs} of other bundles."""
    layers = {m: plan.model_inputs(m) for m in plan.models} | {t["name"]: t["inputs"] for t in transferred}
    models = {*layers, *(node.name for node in plan.nodes.values() if node.what == MODEL)}
    return list(dict.fromkeys(i for inputs in layers.values() for i in inputs if i not in models))


def fit_dictionaries(plan: Plan, data: TrainingSet) -> Dictionaries:
    """For each text that models use, its most frequent values; a value's code is its place."""
    texts = [name for name in outside_inputs(plan) if plan.nodes[name].type.kind == TEXT]
    return {name: _frequent(data.columns[name]) for name in texts}


def _frequent(column: Column) -> list[str]:
    assert isinstance(column, Text)
    values, counts = np.unique(np.array([v for v in column.strings() if v is not None], dtype=str), return_counts=True)
    return [str(v) for v in values[np.argsort(-counts, kind="stable")[:MOST_WORDS]]]


def input_values(
    plan: Plan,
    columns: Mapping[str, Column],
    dictionaries: Mapping[str, Sequence[str]],
    transferred: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Columns of the models' outside inputs as numbers, as `riskflow.scoring.Scorer` sees them."""
    codes = {name: TextCodes(values) for name, values in dictionaries.items()}
    return {n: codes[n](columns[n]) if n in codes else columns[n] for n in outside_inputs(plan, transferred)}
