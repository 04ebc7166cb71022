"""Makes bundles: exports models, works out what they need, and notes what the golden rows must give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np

from batch.export import to_onnx
from batch.flatten import flatten
from batch.weights import counted, part, quantiles
from riskflow.bundle import CARD, EXPECTED, GOLDEN, Bundle, check_golden
from riskflow.columns import F8, Columns, n_rows, take
from riskflow.declare import CATEGORY, TEXT
from riskflow.plan import MODEL, TIME, Plan
from riskflow.policy import SCORE, Numbers, Policy, rule_conditions
from riskflow.scoring import Scorer
from riskflow.settings import PROJECT
from riskflow.wire import encode

MOST_GOLDEN_ROWS = 64


def build_bundle(
    plan: Plan,
    *,
    models: Mapping[str, Any],
    policy_numbers: Numbers,
    golden_columns: Columns | None = None,
    calibration: Mapping[str, Sequence[float]] | None = None,
    dictionaries: Mapping[str, Sequence[str]] | None = None,
    reference: Mapping[str, float | None] | None = None,
    profile: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    transferred: Sequence[Mapping[str, Any]] = (),
    version: int = 1,
    parent: int | None = None,
    describe: Callable[[Scorer], bytes | None] | None = None,
) -> Bundle:
    """An unsigned bundle, its golden rows checked. models: name -> fitted estimator or ONNX bytes, all layers.

    describe: makes what the model card shows of it (`card.json`), where there are golden rows. A model's inputs are
    those of the plan, in the plan's order; those of transferred layers, which come from other bundles and are among the
    models too, are told with them. The registry gives the final version when it publishes.
    """
    inputs = {layer["name"]: list(layer["inputs"]) for layer in transferred}
    inputs |= {name: list(plan.model_inputs(name)) for name in plan.models if name in models}
    if set(inputs) != set(models):
        raise ValueError(f"models that the plan does not have: {sorted(set(models) - set(inputs))}")
    layers: list[dict[str, Any]] = [{"name": n, "inputs": i, "file": f"{n}.onnx"} for n, i in inputs.items()]
    files = {f"{n}.onnx": _onnx(plan, n, models[n]) for n in inputs}
    for layer in layers:
        trees = flatten(files[layer["file"]])
        if trees is not None:
            layer["trees"] = f"{layer['name']}.trees"
            files[layer["trees"]] = trees
    sections = {
        "usecase": plan.name, "version": version, "parent": parent, "code": code_version(), "created_at": _now(),
        "models": layers, "needed": needed(plan, layers, policy_numbers), "policy": policy_numbers,
        "calibration": calibration, "dictionaries": dictionaries or {}, "reference": reference or {},
        "profile": profile or {}, "metrics": metrics or {}, "data": data or {},
    }  # fmt: skip
    bare = Bundle.of(plain(sections), files)
    if golden_columns is None:
        return bare
    scorer = Scorer(plan, bare)
    card = describe(scorer) if describe else None
    return _with_golden(scorer, plain(sections), files if card is None else {**files, CARD: card}, golden_columns)


def rules_alone(plan: Plan) -> Bundle:
    """An unsigned bundle of policy.yaml's rules, without a model: every score is 0."""
    policy = Policy.load(plan.usecase.folder / "policy.yaml")
    policy.check(plan)
    return build_bundle(plan, models={}, policy_numbers=policy.start())


def _with_golden(scorer: Scorer, sections: dict[str, Any], files: dict[str, bytes], columns: Columns) -> Bundle:
    rows = golden_rows({name: columns[name] for name in scorer.columns}, scorer)
    golden = {GOLDEN: encode(rows, {}), EXPECTED: encode(scorer.golden(rows), {})}
    bundle = Bundle.of(sections, {**files, **golden})
    check_golden(Scorer(scorer.plan, bundle))
    return bundle


def golden_rows(columns: Columns, scorer: Scorer) -> Columns:
    """Up to 64 of the rows: half those with the highest scores, so that reasons are tried too, half spread evenly."""
    n = n_rows(columns)
    if n <= MOST_GOLDEN_ROWS:
        return columns
    half = MOST_GOLDEN_ROWS // 2
    highest = np.argsort(-scorer.score(columns).score, kind="stable")[:half]
    rest = np.setdiff1d(np.arange(n), highest)
    spread = rest[np.linspace(0, len(rest) - 1, half).astype(np.int64)]
    return take(columns, np.sort(np.concatenate([highest, spread])))


def needed(plan: Plan, layers: Iterable[Mapping[str, Any]], policy_numbers: Numbers) -> dict[str, str]:
    """Fields and features that these models and rules use, directly or through others, with their fingerprints."""
    layers = list(layers)
    models = {layer["name"] for layer in layers}
    todo = [i for layer in layers for i in layer["inputs"] if i not in models]
    todo += [n for condition in rule_conditions(policy_numbers, plan) for n in condition.names if n != SCORE]
    found: dict[str, str] = {}
    while todo:
        node = plan.nodes[todo.pop()]
        if node.name not in found and node.what != MODEL and node.name != TIME:
            found[node.name] = node.fingerprint
            todo += [i for i in node.inputs if i in plan.nodes]
    return dict(sorted(found.items()))


def usual_values(
    plan: Plan, values: Mapping[str, Any], genuine: Any, weight: F8 | None = None
) -> dict[str, float | None]:
    """What is usual for each model input: the median over genuine rows, the most frequent code of a category.

    weight: how many events each of the genuine rows stands for.
    """
    return {name: _usual(plan, name, np.asarray(column)[genuine], weight) for name, column in values.items()}


def _usual(plan: Plan, name: str, column: Any, weight: F8 | None) -> float | None:
    if plan.nodes[name].type.kind in (CATEGORY, TEXT):
        codes, counts = counted(column, weight)
        return float(codes[counts.argmax()]) if len(codes) else None
    known = ~np.isnan(column)
    return float(quantiles(column[known], 0.5, part(weight, known))) if known.any() else None


def plain(value: Any) -> Any:
    """The same as JSON can say it: arrays as lists, numpy numbers as numbers, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _onnx(plan: Plan, name: str, model: Any) -> bytes:
    return model if isinstance(model, bytes) else to_onnx(model, len(plan.model_inputs(name)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@lru_cache
def code_version() -> str:
    """The commit of this checkout; `unknown` outside one."""
    import subprocess

    try:
        asked = ["git", "-C", str(PROJECT), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
