"""What a model card shows of a candidate, worked out once, when it is judged, and carried in the bundle as `card.json`.

Curves and segments are of out-of-time scores of the validation rows. Importances are of the models in the bundle, which
have learned from these rows too: they say what the models look at, not how good they are.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from batch import metrics
from batch.bundling import plain
from batch.train import Trained
from batch.training_set import TrainingSet
from batch.weights import weights
from riskflow.columns import F8, take
from riskflow.declare import CATEGORY
from riskflow.plan import Plan
from riskflow.policy import Numbers
from riskflow.scoring import Scorer

POINTS = 160  # of a curve
BINS = 10  # of the calibration
SCORE_BINS = 40
IMPORTANCE_ROWS, IMPORTANCE_VALUES = 5_000, 2_000_000  # rows at most; rows times inputs at most
FEWEST_ROWS = 500
SEED = 20_240_229
PACKAGES = ("numpy", "scikit-learn", "onnx", "onnxruntime", "skl2onnx", "numba", "polars", "riskflow")

log = logging.getLogger(__name__)


def evidence(
    plan: Plan, scorer: Scorer, trained: Trained, validation: TrainingSet, score: F8, numbers: Numbers
) -> bytes | None:
    """card.json; None when it cannot be made, which is logged and keeps no bundle from being judged."""
    try:
        found = {
            "validation": _about(validation),
            "curves": curves(validation, score, numbers),
            "segments": segments(plan, validation, score, numbers),
            "importances": importances(scorer, validation),
            "parity": trained.parity,
            "environment": environment(),
        }
        return json.dumps(plain(found), separators=(",", ":")).encode()
    except Exception:
        log.exception("%s: no evidence for the model card; judging goes on", plan.name)
        return None


def _about(validation: TrainingSet) -> dict[str, Any]:
    first, last = (int(validation.at_ms[i]) for i in (0, -1))
    return {"from_ms": first, "to_ms": last, "rows": len(validation), "frauds": validation.frauds}


# ---- curves ----------------------------------------------------------------------------------------------------------


def curves(validation: TrainingSet, score: F8, numbers: Numbers) -> dict[str, Any]:
    """Each as lists of numbers, thinned; empty where there is only one class."""
    fraud, each = validation.fraud, weights(validation.weight, len(validation))
    if not 0 < fraud.sum() < len(fraud):
        return {}
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits, seen = (np.cumsum(of[order])[ends] for of in (each * fraud, each))
    frauds, genuine = hits[-1], seen[-1] - hits[-1]
    at = _thin(len(ends))
    recall, precision, wrong = hits[at] / frauds, hits[at] / seen[at], (seen[at] - hits[at]) / genuine
    return {
        "roc": {"x": [0.0, *wrong], "y": [0.0, *recall]},
        "precision_recall": {"x": recall, "y": precision},
        "gain": {"x": [0.0, *(seen[at] / seen[-1])], "y": [0.0, *recall]},
        "thresholds": {
            "threshold": score[order][ends[at]], "precision": precision, "recall": recall,
            "alerts_per_day": seen[at] / metrics.days(validation.at_ms), **_costs(numbers, hits[at], seen[at], frauds),
        },
        "calibration": _calibration(score, fraud, each),
        "scores": _histogram(score, fraud, each),
    }  # fmt: skip


def _thin(n: int) -> Any:
    """Numbers of points that show a curve: the first ones closely, where few events are flagged, and the last."""
    if n <= POINTS:
        return np.arange(n)
    near = np.geomspace(1, n, POINTS // 2) - 1
    return np.unique(np.concatenate([near, np.linspace(0, n - 1, POINTS // 2)]).round().astype(np.int64))


def _costs(numbers: Numbers, hits: Any, seen: Any, frauds: float) -> dict[str, Any]:
    """What each threshold costs when everything from it on is reviewed, by the costs that the policy declares."""
    declared = numbers.get("wishes", {}).get("costs")
    if not declared:
        return {}
    return {"cost": (frauds - hits) * declared["missed_fraud"] + seen * declared["review"]}


def _calibration(score: F8, fraud: F8, each: F8) -> dict[str, Any]:
    """Bins of equal numbers of frauds expected, so that the upper end is seen too."""
    order = np.argsort(score, kind="stable")
    expected = np.cumsum((each * score)[order])
    if not expected[-1]:
        return {}
    part = np.minimum((expected / expected[-1] * BINS).astype(np.int64), BINS - 1)
    out: dict[str, list[float]] = {"predicted": [], "found": [], "rows": []}
    for one in np.unique(part):
        rows = order[part == one]
        out["predicted"].append(float(np.average(score[rows], weights=each[rows])))
        out["found"].append(float(np.average(fraud[rows], weights=each[rows])))
        out["rows"].append(len(rows))
    return out


def _histogram(score: F8, fraud: F8, each: F8) -> dict[str, Any]:
    edges = np.linspace(0, float(score.max()) or 1.0, SCORE_BINS + 1)
    return {
        "edges": edges,
        "genuine": np.histogram(score[fraud == 0], edges, weights=each[fraud == 0])[0],
        "fraud": np.histogram(score[fraud > 0], edges, weights=each[fraud > 0])[0],
    }


# ---- segments --------------------------------------------------------------------------------------------------------


def segments(plan: Plan, validation: TrainingSet, score: F8, numbers: Numbers) -> dict[str, dict[str, Any]]:
    """Figures of each value of each category that events have."""
    flagged = score >= (np.inf if numbers["review"] is None else numbers["review"])
    each = weights(validation.weight, len(validation))
    out: dict[str, dict[str, Any]] = {}
    for name, kind in plan.scored.types.items():
        if kind.kind == CATEGORY and name in validation.columns:
            codes = np.asarray(validation.columns[name])
            words = {**dict(enumerate(kind.values)), -1: "not known"}
            out[name] = {
                words[c]: _group(flagged[codes == c], validation.fraud[codes == c] > 0, each[codes == c])
                for c in np.unique(codes).tolist()
            }
    return out


def _group(flagged: Any, fraud: Any, each: Any) -> dict[str, Any]:
    """Of the events that the group's rows stand for."""
    events, frauds, alerts = float(each.sum()), float(each[fraud].sum()), float(each[flagged].sum())
    hits = float(each[fraud & flagged].sum())
    return {
        "events": round(events), "frauds": round(frauds), "alerts": round(alerts), "precision": _share(hits, alerts),
        "recall": _share(hits, frauds), "false_positive_rate": _share(alerts - hits, events - frauds),
    }  # fmt: skip


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


# ---- importances -----------------------------------------------------------------------------------------------------


def importances(scorer: Scorer, validation: TrainingSet) -> dict[str, Any]:
    """By how much average precision falls when an input's values are shuffled among rows (Breiman, Random Forests,
    2001); all frauds and a sample of the rest. The sample's share of frauds is larger than it is in life."""
    if not scorer.inputs:
        return {}
    rows = _sample(validation.fraud, len(scorer.inputs))
    part = take({name: validation.columns[name] for name in scorer.columns}, rows)
    of_rows, rng = validation.rows(rows), np.random.default_rng(SEED)
    values, shuffled = scorer.values(part), rng.permutation(len(rows))
    base = _reached(scorer, values, of_rows)
    drops = {n: base - _reached(scorer, {**values, n: values[n][shuffled]}, of_rows) for n in scorer.inputs}
    return {"rows": len(rows), "average_precision": base, "drop": dict(sorted(drops.items(), key=lambda d: -d[1]))}


def _sample(fraud: F8, inputs: int) -> Any:
    most = max(FEWEST_ROWS, min(IMPORTANCE_ROWS, IMPORTANCE_VALUES // inputs))
    rng = np.random.default_rng(SEED)
    bad, good = np.flatnonzero(fraud > 0), np.flatnonzero(fraud == 0)
    bad = np.sort(rng.permutation(bad)[: most // 2])
    good = np.sort(rng.permutation(good)[: most - len(bad)])
    return np.sort(np.concatenate([bad, good]))


def _reached(scorer: Scorer, values: Mapping[str, Any], rows: TrainingSet) -> float:
    outputs: dict[str, F8] = {}
    for layer in scorer.layers:
        outputs[layer.name] = layer.run({**values, **outputs}, len(rows))
    return metrics.average_precision(outputs[scorer.layers[-1].name], rows.fraud, rows.weight) or 0.0


# ---- environment -----------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """What it was made with."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
