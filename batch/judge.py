"""Judges a trained candidate: makes its bundle, measures it beside the champion, holds it to gates.

What is measured are out-of-time outputs: those of models that had not seen the validation rows. The models in the
bundle learned from the whole span, validation rows included; they are what parity and golden rows are checked on.

A champion is compared on validation rows that it had not learned from either. A young one has learned from nearly all
of them; then both bundles are compared as they stand, since each has seen the rows, and the verdict says so.
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
from batch.card.evidence import evidence
from batch.pipeline import Gates, Pipeline
from batch.profile import profile_of
from batch.train import Trained, input_values, outside_inputs
from batch.training_set import TrainingSet
from riskflow.bundle import Bundle, check_golden
from riskflow.columns import F8, Text
from riskflow.errors import BundleRefused
from riskflow.plan import Plan
from riskflow.policy import Numbers, Policy, PolicyFile
from riskflow.scoring import Calibration, Scorer

FEWEST_SCORES = 3  # distinct ones; a score with fewer says nothing
GOLDEN_FROM = 5_000  # rows, the newest ones, among which golden rows are looked for


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
class Comparison:
    """Both on the same rows. Without figures there was nothing to compare with; `basis` says why, or which rows."""

    basis: str
    version: int | None = None
    rows: int = 0
    candidate: dict[str, Any] = field(default_factory=dict)
    champion: dict[str, Any] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)  # row by row


@dataclass(frozen=True)
class Verdict:
    """All evidence for or against a candidate, as plain JSON."""

    usecase: str
    candidate: str
    gates: list[Gate]
    metrics: dict[str, Any]
    against: Comparison
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
    bundle, golden = _bundle(plan, best, data, validation, points, numbers, figures, about_data, champion)
    against = compare(plan, pipeline, validation, score, bundle, champion)
    gates = [*data_gates(plan, data, validation, pipeline.gates), *_parity(best, pipeline.gates)]
    gates += [_not_worse(figures, against, pipeline.gates), _varied(score), golden]
    race = {t.candidate: t.average_precision for t in raced}
    return Judged(bundle, Verdict(plan.name, best.candidate, gates, figures, against, race))


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


# ---- beside the champion ---------------------------------------------------------------------------------------------


def compare(
    plan: Plan, pipeline: Pipeline, validation: TrainingSet, score: F8, bundle: Bundle | None, champion: Bundle | None
) -> Comparison:
    """Candidate and champion on the same validation rows; `score` are the candidate's out-of-time scores of all."""
    if champion is None or bundle is None:
        return Comparison("there is no champion" if champion is None else "the candidate has no bundle")
    changed = [n for n, print_ in champion.needed.items() if n not in plan.nodes or plan.nodes[n].fingerprint != print_]
    if changed:
        return Comparison(f"champion {champion.version} needs {changed[0]!r} as it no longer is", champion.version)
    unseen = validation.at_ms > champion.data.get("last_ms", 0)
    if validation.rows(unseen).frauds >= pipeline.gates.fewest_frauds:
        rows, score, basis = validation.rows(unseen), score[unseen], "rows that neither had learned from"
    else:
        rows, basis = validation, "rows that both bundles had learned from, since the champion is young"
        score = Scorer(plan, bundle).score(rows.columns).score
    other = Scorer(plan, champion).score(rows.columns).score
    figures = [measure(plan, rows, *s, pipeline.file.top_k) for s in ((score, bundle.policy), (other, champion.policy))]
    moved = metrics.difference(score, other, bundle.policy["review"], champion.policy["review"])
    return Comparison(basis, champion.version, len(rows), *figures, moved)


def _not_worse(figures: Mapping[str, Any], against: Comparison, gates: Gates) -> Gate:
    name = "average_precision"
    if not against.champion:
        return Gate(name, figures["ap"] is not None, figures["ap"], f"any: {against.basis}")
    mine, its = against.candidate["ap"], against.champion["ap"]
    least = gates.average_precision * (its or 0.0)
    wanted = (
        f"at least {least:.4f}, {gates.average_precision:g} of the champion's {its} on {against.rows} {against.basis}"
    )
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
    score = Calibration.of(points)(best.outputs)
    newest = validation.rows(np.arange(max(0, len(validation) - GOLDEN_FROM), len(validation)))
    wanted = "the same bytes in blocks of 1, 2, 7, 64 and 512"
    try:
        bundle = build_bundle(
            plan, models=best.models, policy_numbers=numbers, golden_columns=newest.columns, calibration=points,
            dictionaries=best.dictionaries, reference=usual_values(plan, values, data.fraud == 0),
            profile=profile_of(plan, values, data.columns, score, validation.columns),
            describe=lambda scorer: evidence(plan, scorer, best, validation, score, numbers),
            metrics={"candidate": best.candidate, **figures},
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
