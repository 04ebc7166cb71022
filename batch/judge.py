"""Judges a trained candidate: makes its bundle, measures it beside the champion (batch/compare.py), holds it to gates.

What is measured are out-of-time outputs: those of models that had not seen the validation rows. The models in the
bundle learned from the whole span, validation rows included; they are what parity and golden rows are checked on.

Gates are those that pipeline.yaml declares (batch/gates), the checks of the data (batch/checks.py), and two that every
bundle must pass: its golden rows, and a score that is not the same for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from batch import metrics
from batch.bundling import build_bundle, plain, usual_values
from batch.calibration import calibration_points
from batch.card.evidence import evidence
from batch.checks import check_amount, check_inputs
from batch.compare import Beside, Comparison, side_by_side
from batch.gates import Gate
from batch.gates.case import Case
from batch.pipeline import Pipeline
from batch.pipeline_checks import Checks
from batch.profile import profile_of
from batch.quality import effective_rows
from batch.train import Trained, input_values, outside_inputs
from batch.training_set import TrainingSet
from batch.weights import part, weights
from riskflow.bundle import Bundle, check_golden
from riskflow.columns import F8, Text
from riskflow.errors import BundleRefused
from riskflow.plan import Plan
from riskflow.policy import Numbers, Policy, PolicyFile
from riskflow.scoring import Calibration, Scorer

FEWEST_SCORES = 3  # distinct ones; a score with fewer says nothing
GOLDEN_FROM = 5_000  # rows, the newest ones, among which golden rows are looked for


@dataclass(frozen=True)
class Verdict:
    """All evidence for or against a candidate, as plain JSON."""

    usecase: str
    candidate: str
    gates: list[Gate]
    metrics: dict[str, Any]
    against: Comparison
    race: dict[str, float] = field(default_factory=dict)  # average precision of every candidate
    not_trained: dict[str, str] = field(default_factory=dict)  # candidates whose training failed, and why
    raised: dict[str, str] = field(default_factory=dict)  # functions that raised for some rows, and what

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
        return dict(plain({**asdict(self), "passed": self.passed}))


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
    points = calibration_points(best.outputs, validation.fraud, validation.weight)
    score = Calibration.of(points)(best.outputs)
    numbers = policy_of(plan).resolve(score, validation.fraud, validation.at_ms, validation.weight)
    figures = {**measure(plan, validation, score, numbers, pipeline.file.top_k), **_sizes(data, validation)}
    figures["passed"] = of_passed(validation, score, numbers)
    bundle, golden = _bundle(plan, best, data, validation, points, numbers, figures, about_data, champion)
    checks = pipeline.file.checks
    beside = side_by_side(plan, validation, score, bundle, champion, checks.frauds.least or 1)
    case = Case(plan, pipeline, data, validation, best, score, numbers, figures, bundle, champion, beside)
    gates = [*data_gates(plan, data, validation, checks), *(gate.judge(case) for gate in pipeline.gates)]
    gates += [_varied(score), golden]
    race = {t.candidate: t.average_precision for t in raced}
    against = _comparison(plan, beside, numbers, champion, pipeline.file.top_k)
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
        **metrics.ranking(score, rows.fraud, rows.weight),
        "cp_at_k": metrics.card_precision(score, rows.fraud, ids.hashes(), rows.at_ms, top_k, rows.weight),
        "top_k": top_k,
        **metrics.at_threshold(score, rows.fraud, rows.at_ms, numbers["review"], rows.weight),
        "lift_top_1": metrics.lift(score, rows.fraud, weight=rows.weight),
    }


def of_passed(rows: TrainingSet, score: F8, numbers: Numbers) -> dict[str, Any]:
    """Figures of what the score does not decline: live, nobody hears of the rest."""
    passed = score < (np.inf if numbers["decline"] is None else numbers["decline"])
    if not passed.any():
        return {}
    rows, score = rows.rows(passed), score[passed]
    return {
        **metrics.ranking(score, rows.fraud, rows.weight),
        **metrics.at_threshold(score, rows.fraud, rows.at_ms, numbers["review"], rows.weight),
        "validation_frauds": rows.frauds,
        "validation_frauds_seen": effective_rows(weights(rows.weight, len(rows)), rows.fraud),
    }


def _sizes(data: TrainingSet, validation: TrainingSet) -> dict[str, float]:
    return {
        "train_rows": len(data), "train_frauds": data.frauds,
        "validation_rows": len(validation), "validation_frauds": validation.frauds,
        "validation_frauds_seen": effective_rows(weights(validation.weight, len(validation)), validation.fraud),
    }  # fmt: skip


# ---- gates -----------------------------------------------------------------------------------------------------------


def data_gates(plan: Plan, data: TrainingSet, validation: TrainingSet, checks: Checks) -> list[Gate]:
    """Whether there is enough to learn from, in the validation span as well, and whether it looks as it should."""
    held_out = Gate(
        "validation_frauds", checks.frauds.holds(validation.frauds), validation.frauds,
        f"{checks.frauds.words} in the validation span",
    )  # fmt: skip
    return [*check_amount(data, checks), held_out, check_inputs(data, checks, outside_inputs(plan))]


def _varied(score: F8) -> Gate:
    distinct = len(np.unique(score))
    return Gate("score_not_constant", distinct >= FEWEST_SCORES, f"{distinct} scores", f"at least {FEWEST_SCORES}")


def _comparison(plan: Plan, beside: Beside, numbers: Numbers, champion: Bundle | None, top_k: int) -> Comparison:
    """Every figure of both, as the verdict tells them."""
    rows = beside.rows
    if rows is None or champion is None:
        return Comparison(beside.basis, beside.version)
    policies = (numbers, champion.policy)
    mine, its = (measure(plan, rows, s, p, top_k) for s, p in zip((beside.score, beside.other), policies, strict=True))
    thresholds = numbers["review"], champion.policy["review"]
    moved = metrics.difference(beside.score, beside.other, *thresholds, rows.weight)
    return Comparison(beside.basis, beside.version, len(rows), mine, its, moved)


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
    values = input_values(plan, data.columns, best.dictionaries, best.transferred)
    score = Calibration.of(points)(best.outputs)
    genuine = data.fraud == 0
    newest = validation.rows(np.arange(max(0, len(validation) - GOLDEN_FROM), len(validation)))
    wanted = "the same bytes in blocks of 1, 2, 7, 64 and 512"
    try:
        bundle = build_bundle(
            plan, models=best.models, policy_numbers=numbers, golden_columns=newest.columns, calibration=points,
            dictionaries=best.dictionaries, reference=usual_values(plan, values, genuine, part(data.weight, genuine)),
            profile=profile_of(
                plan, values, data.columns, score, validation.columns, data.weight, validation.weight
            ),
            describe=lambda scorer: evidence(plan, scorer, best, validation, score, numbers),
            metrics={"candidate": best.candidate, **best.notes, **figures},
            data={**data_version(data), **(about or {})}, parent=champion.version if champion else None,
            transferred=best.transferred,
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
