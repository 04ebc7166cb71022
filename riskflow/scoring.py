"""Scores rows: the models of a bundle from the lowest layer up, calibration, then the policy. One path for all callers.

A row's result never depends on the rows beside it or on how a block was cut: matrices are row-major float32, cast once
from float64, and a block of one is padded to two rows, because onnxruntime gives other bits for a batch of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskflow.bundle import Bundle
from riskflow.columns import F8, I8, Column, Columns, Text, n_rows, take
from riskflow.errors import BundleRefused
from riskflow.explain import Explainer
from riskflow.plan import Plan
from riskflow.policy import ACTIONS, APPROVE, DECIMALS, I1, Decider
from riskflow.trees import F4, Trees

LARGEST = 1e18  # of a model input; beyond it a float32 pipeline would reach infinity
Outputs = dict[str, F8]


@dataclass(frozen=True)
class Scored:
    """One value for each row. `score` is a probability with 6 decimals; NaN where a row could not be scored."""

    outputs: Outputs
    score: F8
    band: I1
    action: I1
    hits: NDArray[np.bool_]  # one row for each rule
    band_names: tuple[str, ...]
    _explain: Any = field(repr=False)
    matrices: Mapping[str, F4] = field(default_factory=dict, repr=False)  # what each layer saw

    action_names = ACTIONS

    @property
    def flagged(self) -> I8:
        """Rows that are not approved."""
        return np.flatnonzero(self.action != APPROVE)

    def reasons(self, rows: I8 | None = None) -> list[list[str]]:
        """Up to three reasons in words for each of the rows; for all that are not approved by default."""
        rows = self.flagged if rows is None else np.asarray(rows, np.int64)
        found: list[list[str]] = self._explain(rows, {n: o[rows] for n, o in self.outputs.items()}, self.hits[:, rows])
        return found


class Shared:
    """What several bundles make of the same rows, made once: codes of texts, matrices, outputs of equal layers."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What was made under this key before; else makes it. Nobody may change it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class Layer:
    """One model of a bundle: an ONNX file, or the same trees flattened.

    sources: for each input what it is made of, as far as bundles may differ in it; the input itself by default.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[str],
        onnx_bytes: bytes,
        trees: bytes | None = None,
        sources: Sequence[str] | None = None,
    ) -> None:
        self.name, self.inputs = name, tuple(inputs)
        self.matrix_key = _key("matrix", *(self.inputs if sources is None else sources))
        self.key = _key("layer", self.matrix_key, onnx_bytes)  # layers with the same one have equal outputs
        who = f"model {name!r}"
        self._probability: Callable[[F4], F4] = (
            _Onnx(onnx_bytes, len(inputs), who) if trees is None else Trees(trees, len(inputs), who)
        )

    def run(self, values: Mapping[str, Any], rows: int) -> F8:
        """The probability of fraud of each row."""
        return self.of(model_matrix(self.inputs, values, rows), rows)

    def matrix(self, values: Mapping[str, Any], rows: int, shared: Shared) -> F4:
        """What this model sees of these rows, unless another bundle has made it already."""
        made: F4 = shared.once(self.matrix_key, lambda: model_matrix(self.inputs, values, rows))
        return made

    def of(self, matrix: F4, rows: int) -> F8:
        """The same of a matrix that stands already."""
        return self._probability(matrix)[:rows].astype(np.float64)


class _Onnx:
    """An ONNX file, run by onnxruntime on one thread."""

    def __init__(self, onnx_bytes: bytes, inputs: int, who: str) -> None:
        self._session = session_of(onnx_bytes, who)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[-1].name
        shape: Any = None
        try:
            shape = self._run(np.zeros((2, inputs), np.float32)).shape
        except Exception as error:  # onnxruntime has no common type for what it raises
            raise BundleRefused(f"{who} does not run on {inputs} inputs: {error}") from None
        if shape != (2, 2):
            raise BundleRefused(f"{who} gives the shape {shape} for two rows, not two probabilities each")

    def __call__(self, matrix: F4) -> F4:
        """The probability of class 1 of each row."""
        return self._run(matrix)[:, 1]

    def _run(self, matrix: F4) -> F4:
        both: F4 = self._session.run([self._output], {self._input: matrix})[0]
        return both


class Scorer:
    """A bundle at work on the rows of a plan. Making one costs tens of milliseconds; scoring microseconds a row."""

    def __init__(self, plan: Plan, bundle: Bundle) -> None:
        self.plan, self.bundle = plan, bundle
        self.layers = _layers(bundle)
        self.decider = Decider(bundle.policy, plan)
        self.calibration = Calibration.of(bundle.calibration)
        self._codes = {name: TextCodes(values) for name, values in bundle.dictionaries.items()}
        self._codings = {name: _coding(name, values) for name, values in bundle.dictionaries.items()}
        names = {layer.name for layer in self.layers}
        self.inputs = tuple(dict.fromkeys(i for layer in self.layers for i in layer.inputs if i not in names))
        self.columns = tuple(dict.fromkeys([*self.inputs, *self.decider.columns]))
        self._explainer = Explainer(plan, bundle, self.layers, self.decider)

    def score(self, columns: Columns, shared: Shared | None = None) -> Scored:
        """Scores these rows; columns holds at least `self.columns`, one value for each row.

        shared: of all bundles that score the very same columns.
        """
        rows = n_rows(columns)
        shared = Shared() if shared is None else shared
        values = self.values(columns, shared)
        outputs, matrices = self._outputs(values, rows, shared)
        score = self.calibration(outputs[self.layers[-1].name]) if self.layers else np.zeros(rows)
        decided = self.decider.decide(score, columns, shared.once)

        def explain(chosen: I8, chosen_outputs: Outputs, hits: NDArray[np.bool_]) -> list[list[str]]:
            picked = {name: values[name][chosen] for name in self.inputs}
            texts = take({name: columns[name] for name in self._codes}, chosen)
            return self._explainer.reasons(picked, texts, chosen_outputs, hits)

        return Scored(
            outputs, score, decided.band, decided.action, decided.hits, self.decider.bands, explain, matrices
        )  # fmt: skip

    def values(self, columns: Mapping[str, Column], shared: Shared | None = None) -> dict[str, Any]:
        """The models' inputs as numbers: texts by their code."""
        shared = Shared() if shared is None else shared
        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise KeyError(f"columns to score lack {missing[0]!r} (bundle {self.bundle.version})")
        return {n: self._coded(n, columns[n], shared) if n in self._codes else columns[n] for n in self.inputs}

    def _coded(self, name: str, column: Column, shared: Shared) -> NDArray[np.int32]:
        codes: NDArray[np.int32] = shared.once(self._codings[name], lambda: self._codes[name](column))
        return codes

    def golden(self, columns: Columns) -> Columns:
        """Everything about these rows that must be the same bytes on every machine."""
        scored = self.score(columns)
        reasons = [""] * len(scored.score)
        for row, words in zip(scored.flagged.tolist(), scored.reasons(), strict=True):
            reasons[row] = "\n".join(words)
        models = {f"model.{name}": output for name, output in scored.outputs.items()}
        rest: Columns = {"score": scored.score, "action": scored.action, "band": scored.band}
        return {**models, **rest, "reasons": Text.of_strings(reasons)}

    def _outputs(self, values: dict[str, Any], rows: int, shared: Shared) -> tuple[Outputs, dict[str, F4]]:
        outputs: Outputs = {}
        matrices: dict[str, F4] = {}
        for layer in self.layers:
            matrix = layer.matrix({**values, **outputs}, rows, shared)
            matrices[layer.name] = matrix
            outputs[layer.name] = shared.once(layer.key, partial(layer.of, matrix, rows)) if rows else np.zeros(0)
        return outputs, matrices


def _layers(bundle: Bundle) -> list[Layer]:
    """Lowest first. An input is made of a column, of a column by a dictionary, or of a lower layer."""
    made = {name: _coding(name, values) for name, values in bundle.dictionaries.items()}
    layers = []
    for model in bundle.models:
        sources = [made.get(name, name) for name in model["inputs"]]
        trees = bundle.files[model["trees"]] if "trees" in model else None
        layers.append(Layer(model["name"], model["inputs"], bundle.files[model["file"]], trees, sources))
        made[model["name"]] = layers[-1].key
    return layers


def _coding(name: str, dictionary: Sequence[str]) -> str:
    return _key("codes", name, *dictionary)


def _key(*parts: str | bytes) -> str:
    """One word for all of these."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(content) + content)
    return digest.hexdigest()


def model_matrix(inputs: Sequence[str], values: Mapping[str, Any], rows: int) -> F4:
    """What a model sees: one row for each event, at least two; training goes through here as well."""
    matrix = np.zeros((max(rows, 2), len(inputs)), np.float32)
    with np.errstate(over="ignore"):
        for j, name in enumerate(inputs):
            column = values[name]
            matrix[:rows, j] = column if column.dtype == np.float64 else column.astype(np.float64)
    return np.minimum(np.maximum(matrix, -LARGEST, out=matrix), LARGEST, out=matrix)  # np.clip takes 8 us more


class TextCodes:
    """Texts as the number of their place in a dictionary; -1 for one that is not in it and for a missing one."""

    def __init__(self, values: Sequence[str]) -> None:
        hashes = Text.of_strings(values).hashes()
        self._places = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._places]
        if len(np.unique(hashes)) < len(hashes):
            raise BundleRefused("a dictionary holds a value twice. Make it of distinct values")

    def __call__(self, column: Column) -> NDArray[np.int32]:
        if not isinstance(column, Text) or not len(self._hashes):
            return np.full(len(column), -1, np.int32)
        hashes = column.hashes()
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, self._places[at], np.int32(-1)).astype(np.int32)


@dataclass(frozen=True)
class Calibration:
    """A model's output as a probability with 6 decimals: straight lines between points, outside the ONNX graph.

    Inside it, float32 steps move an isotonic calibration by up to 0.04.
    """

    x: F8 | None = None
    y: F8 | None = None

    @classmethod
    def of(cls, points: Mapping[str, Sequence[float]] | None) -> Calibration:
        if points is None:
            return cls()
        x, y = np.array(points["x"], np.float64), np.array(points["y"], np.float64)
        if len(x) != len(y) or not len(x) or (np.diff(x) < 0).any() or (np.diff(y) < 0).any():
            raise BundleRefused("the calibration is not a rising line of points. Calibrate again")
        return cls(x, y)

    def __call__(self, output: F8) -> F8:
        probability = output if self.x is None or self.y is None else np.interp(output, self.x, self.y)
        return np.round(probability, DECIMALS) + 0.0


def session_of(onnx_bytes: bytes, who: str) -> Any:
    """An onnxruntime session on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common type for what it raises
        raise BundleRefused(f"{who} cannot be loaded: {error}") from None
