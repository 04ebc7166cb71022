"""Judges a trained candidate: makes its bundle, measures it beside the champion, holds it to gates.

What is measured are out-of-time outputs: those of models that had not seen the validation rows. The models in the
bundle learned from the whole span, validation rows included; they are what parity and golden rows are checked on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from batch import metrics
from batch.bundling import build_bundle, usual_values
from batch.calibration import calibration_points
from batch.pipeline import Gates, Pipeline
from batch.train import Trained, input_values, outside_inputs
from batch.training_set import TrainingSet
from riskflow.bundle import Bundle, check_golden
from riskflow.columns import F8, Text
from riskflow.declare import CATEGORY, TEXT
from riskflow.errors import BundleRefused
from riskflow.plan import Plan
from riskflow.policy import Numbers, Policy, PolicyFile
from riskflow.scoring import Calibration, Scorer

FEWEST_SCORES = 3  # distinct ones; a score with fewer says nothing
GOLDEN_FROM = 5_000  # rows, the newest ones, among which golden rows are looked for
DECILES = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Gate:
    """One condition: what was found, what is wanted."""

    name: str
    passed: bool
    found: Any
    wanted: str

    def sentence(self) -> str:
        return f"{self.name}: found {self.found}, wanted {self.wanted}"


@dataclass(frozen=True)
class Verdict:
    """All evidence for or against a candidate, as plain JSON."""

    usecase: str
    candidate: str
    gates: list[Gate]
    metrics: dict[str, Any]
    champion: dict[str, Any] | None = None  # the champion's metrics on the same rows
    champion_version: int | None = None
    difference: dict[str, float] | None = None  # row by row against the champion
    race: dict[str, float] = field(default_factory=dict)  # average precision of every candidate

    @property
    def failed(self) -> list[Gate]:
        return [gate for gate in self.gates if not gate.passed]

    @property
    def passed(self) -> bool:
        return not self.failed

    def refusal(self) -> str:
        """Why nothing is published: the gates that failed, with their numbers."""
        lines = [f"  {gate.sentence()}" for gate in self.failed]
        return "\n".join([f"{self.usecase}: {self.candidate} is not published, {len(lines)} gates failed", *lines])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Judged:
    bundle: Bundle | None  # None: it could not be made; the verdict says why
    verdict: Verdict


def judge(
    plan: Plan,
    pipeline: Pipeline,
    data: TrainingSet,
    validation: TrainingSet,
    raced: Sequence[Trained],
    champion: Bundle | None = None,
    about_data: Mapping[str, Any] | None = None,
) -> Judged:
    """The best candidate's bundle and the verdict on it.

    data: everything that was learned from; validation: its newest part, in the order of the candidates' outputs.
    """
    best = raced[0]
    points = calibration_points(best.outputs, validation.fraud)
    score = Calibration.of(points)(best.outputs)
    numbers = policy_of(plan).resolve(score, validation.fraud, validation.at_ms)
    figures = {**measure(plan, validation, score, numbers, pipeline.file.top_k), **_sizes(data, validation)}
    other = _champion(plan, champion, validation, pipeline.file.top_k)
    gates = [*data_gates(plan, data, validation, pipeline.gates), *_parity(best, pipeline.gates)]
    gates += [_against(figures, other, pipeline.gates), _varied(score)]
    bundle, golden = _bundle(plan, best, data, validation, points, numbers, figures, about_data, champion)
    verdict = Verdict(
        plan.name, best.candidate, [*gates, golden], figures,
        other.metrics, champion.version if champion else None,
        None if other.score is None else metrics.difference(score, other.score, numbers["review"], other.review),
        {t.candidate: t.average_precision for t in raced},
    )  # fmt: skip
    return Judged(bundle, verdict)


def policy_of(plan: Plan) -> Policy:
    """The use case's policy, held against its plan; without a file, scores alone."""
    path = plan.usecase.folder / "policy.yaml"
    policy = Policy.load(path) if path.is_file() else Policy(PolicyFile())
    policy.check(plan)
    return policy


def measure(plan: Plan, rows: TrainingSet, score: F8, numbers: Numbers, top_k: int) -> dict[str, Any]:
    """Every figure about scores of these rows."""
    ids = rows.columns[plan.entities[0]]
    assert isinstance(ids, Text)
    return {
        **metrics.ranking(score, rows.fraud),
        "cp_at_k": metrics.card_precision(score, rows.fraud, ids.hashes(), rows.at_ms, top_k),
        "top_k": top_k,
        **metrics.at_threshold(score, rows.fraud, rows.at_ms, numbers["review"]),
        "lift_top_1": metrics.lift(score, rows.fraud),
    }


def _sizes(data: TrainingSet, validation: TrainingSet) -> dict[str, int]:
    return {
        "train_rows": len(data), "train_frauds": data.frauds,
        "validation_rows": len(validation), "validation_frauds": validation.frauds,
    }  # fmt: skip


# ---- gates -----------------------------------------------------------------------------------------------------------


def data_gates(plan: Plan, data: TrainingSet, validation: TrainingSet, gates: Gates) -> list[Gate]:
    """Whether there is enough to learn from, and whether it looks as it should."""
    low, high = gates.lowest_label_rate, gates.highest_label_rate
    worst, missing = most_missing(plan, data)
    return [
        Gate("rows", len(data) >= gates.fewest_rows, len(data), f"at least {gates.fewest_rows}"),
        Gate("frauds", data.frauds >= gates.fewest_frauds, data.frauds, f"at least {gates.fewest_frauds}"),
        Gate("label_rate", low <= data.rate <= high, round(data.rate, 6), f"{low:g} to {high:g}"),
        Gate(
            "validation_frauds", validation.frauds >= gates.fewest_frauds, validation.frauds,
            f"at least {gates.fewest_frauds} in the validation span",
        ),
        Gate("missing", missing <= gates.most_missing, f"{worst} {missing:.4f}", f"at most {gates.most_missing:g}"),
    ]  # fmt: skip


def most_missing(plan: Plan, data: TrainingSet) -> tuple[str, float]:
    """The model input that is missing most often, and in which share of rows."""
    shares = {name: _missing_share(data.columns[name]) for name in outside_inputs(plan)}
    worst = max(shares, key=lambda name: shares[name], default="no input")
    return worst, shares.get(worst, 0.0)


def _missing_share(column: Any) -> float:
    if not len(column):
        return 1.0
    if isinstance(column, Text):
        return float(column.missing().mean())
    return float((column < 0).mean() if column.dtype == np.int32 else np.isnan(column).mean())


def _parity(trained: Trained, gates: Gates) -> list[Gate]:
    largest = max(trained.parity.values(), default=0.0)
    return [Gate("onnx_parity", largest <= gates.onnx_parity, f"{largest:.3g}", f"at most {gates.onnx_parity:g}")]


def _varied(score: F8) -> Gate:
    distinct = len(np.unique(score))
    return Gate("score_not_constant", distinct >= FEWEST_SCORES, f"{distinct} scores", f"at least {FEWEST_SCORES}")


@dataclass(frozen=True)
class _Champion:
    metrics: dict[str, Any] | None = None
    score: F8 | None = None
    review: float | None = None
    why_not: str = "there is no champion"


def _champion(plan: Plan, champion: Bundle | None, rows: TrainingSet, top_k: int) -> _Champion:
    """The champion on the same rows. One that needs features as they no longer are cannot be compared."""
    if champion is None:
        return _Champion()
    nodes = plan.nodes
    changed = [n for n, print_ in champion.needed.items() if n not in nodes or nodes[n].fingerprint != print_]
    if changed:
        return _Champion(why_not=f"champion {champion.version} needs {changed[0]!r} as it no longer is")
    score = Scorer(plan, champion).score(rows.columns).score
    figures = measure(plan, rows, score, champion.policy, top_k)
    return _Champion(figures, score, champion.policy["review"])


def _against(figures: Mapping[str, Any], champion: _Champion, gates: Gates) -> Gate:
    name, mine = "average_precision", figures["ap"]
    if champion.metrics is None:
        return Gate(name, mine is not None, mine, f"any: {champion.why_not}")
    its = champion.metrics["ap"]
    least = gates.average_precision * (its or 0.0)
    wanted = f"at least {least:.4f} ({gates.average_precision:g} of the champion's {its})"
    return Gate(name, mine is not None and mine >= least, mine, wanted)


# ---- the bundle ------------------------------------------------------------------------------------------------------


def _bundle(
    plan: Plan,
    best: Trained,
    data: TrainingSet,
    validation: TrainingSet,
    points: Any,
    numbers: Numbers,
    figures: Mapping[str, Any],
    about: Mapping[str, Any] | None,
    champion: Bundle | None,
) -> tuple[Bundle | None, Gate]:
    """The bundle and the gate of its golden rows; both are checked while it is made."""
    values = input_values(plan, data.columns, best.dictionaries)
    newest = validation.rows(np.arange(max(0, len(validation) - GOLDEN_FROM), len(validation)))
    wanted = "the same bytes in blocks of 1, 2, 7, 64 and 512"
    try:
        bundle = build_bundle(
            plan, models=best.models, policy_numbers=numbers, golden_columns=newest.columns, calibration=points,
            dictionaries=best.dictionaries, reference=usual_values(plan, values, data.fraud == 0),
            profile=profile(plan, values, data), metrics={"candidate": best.candidate, **figures},
            data={**data_version(data), **(about or {})}, parent=champion.version if champion else None,
        )  # fmt: skip
        check_golden(Scorer(plan, bundle))
    except BundleRefused as error:
        return None, Gate("golden_rows", False, str(error), wanted)
    return bundle, Gate("golden_rows", True, "the same bytes", wanted)


def data_version(data: TrainingSet) -> dict[str, Any]:
    """What names the rows that were learned from: their span, how many, and a hash over ids and verdicts."""
    ids = data.columns["_id"]
    assert isinstance(ids, Text)
    digest = hashlib.sha256(ids.data.tobytes() + ids.offsets.tobytes() + data.fraud.tobytes()).hexdigest()
    first, last = (int(data.at_ms[i]) for i in (0, -1))
    return {"rows": len(data), "frauds": data.frauds, "first_ms": first, "last_ms": last, "sha256": digest}


def profile(plan: Plan, values: Mapping[str, Any], data: TrainingSet) -> dict[str, Any]:
    """What inputs looked like at training, for drift: deciles and missing share, or the share of each code."""
    return {name: _profile_of(plan.nodes[name].type.kind, np.asarray(column)) for name, column in values.items()}


def _profile_of(kind: str, column: Any) -> dict[str, Any]:
    if kind in (CATEGORY, TEXT):
        codes, counts = np.unique(column, return_counts=True)
        return {
            "shares": {str(c): float(n / len(column)) for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
        }
    known = column[~np.isnan(column)]
    deciles = np.quantile(known, DECILES).tolist() if len(known) else None
    return {"deciles": deciles, "missing": 1 - len(known) / max(len(column), 1)}
