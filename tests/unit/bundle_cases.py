"""A small use case with three models in two layers, trained once: what the tests of bundles and scoring share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batch.bundling import build_bundle, usual_values
from riskflow.bundle import Bundle
from riskflow.columns import Columns, Text
from riskflow.declare import Count, Mean, Model, Windows
from riskflow.plan import Plan
from riskflow.policy import Policy, PolicyFile, Review, Rule
from riskflow.scoring import Calibration, TextCodes, model_matrix
from tests.unit.kernel_cases import card, plan_of, shop

ROWS = 2_000
NOTES = ["gift", "rent", "other"]
KEY = Ed25519PrivateKey.generate()
estimators = {"any": lambda: None}

activity = Windows(by=card, over=["1h", "1d"], events=[Count()], amount=[Mean()])
shop_activity = Windows(by=shop, over=["1d"], events=[Count()], amount=[Mean()])


def to_usual(amount: Any, activity_amount_mean_1d: Any) -> Any:
    return amount / activity_amount_mean_1d


def is_big(amount: Any) -> Any:
    return amount > 500


CALIBRATION = {"x": [0.0, 0.2, 0.7, 1.0], "y": [0.0, 0.05, 0.8, 0.97]}
FUNCTIONS = (to_usual, is_big)
DECLARED: dict[str, Any] = {
    "activity": activity,
    "shop_activity": shop_activity,
    "card_model": Model(uses=["activity_*", "amount", "to_usual", "note"], candidates=estimators),
    "shop_model": Model(uses=["shop_activity_*", "amount", "channel"], candidates=estimators),
    "final": Model(uses=["card_model", "shop_model", "amount", "to_usual"], candidates=estimators),
}
RULES = [
    Rule("burst", "activity_events_count_1h > 90", "decline", "many payments in an hour"),
    Rule("trusted", 'channel == "chip" and amount < 1', "approve"),
]


@lru_cache
def plan() -> Plan:
    return plan_of(*FUNCTIONS, **DECLARED)


def columns(rows: int = ROWS, seed: int = 0) -> tuple[Columns, Any]:
    """Rows as they reach scoring, with what they turned out to be."""
    rng = np.random.default_rng(seed)
    fraud = rng.random(rows) < 0.1
    found: Columns = {"at_ms": 1_750_000_000_000 + np.arange(rows) * 60_000}
    for name in ("amount", *plan().features):
        found[name] = rng.gamma(1.0, 30.0, rows) * np.where(fraud, 3.0, 1.0)
        found[name][rng.random(rows) < 0.1] = np.nan
    found["channel"] = rng.integers(-1, 2, rows).astype(np.int32)
    found["note"] = Text.of_strings([None, "gift", "rent", "other", "Łódź"][i] for i in rng.integers(0, 5, rows))
    return found, fraud


def boosted() -> Any:
    return HistGradientBoostingClassifier(max_iter=15, early_stopping=False)


def linear() -> Any:
    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression())


@lru_cache
def trained() -> tuple[dict[str, Any], dict[str, Any]]:
    """Fitted models, and the values of their inputs on the training rows."""
    rows, fraud = columns()
    values: dict[str, Any] = {**rows, "note": TextCodes(NOTES)(rows["note"])}
    fitted: dict[str, Any] = {}
    for name, estimator in (("card_model", boosted()), ("shop_model", linear()), ("final", linear())):
        matrix = model_matrix(plan().model_inputs(name), values, ROWS)
        fitted[name] = estimator.fit(matrix, fraud.astype(int))
        values[name] = estimator.predict_proba(matrix)[:, 1]
    return fitted, values


def policy_numbers() -> dict[str, Any]:
    rows, fraud = columns()
    wishes = PolicyFile(review=Review(alerts_per_day=100), rules=RULES, reasons={"amount": "amount {value}"})
    at_ms: Any = rows["at_ms"]
    return Policy(wishes).resolve(Calibration.of(CALIBRATION)(trained()[1]["final"]), fraud, at_ms)


@lru_cache
def bundle() -> Bundle:
    """Unsigned, version 1, with golden rows."""
    rows, fraud = columns()
    fitted, values = trained()
    inputs = [i for m in plan().models for i in plan().model_inputs(m) if i not in plan().models]
    return build_bundle(
        plan(),
        models=fitted,
        policy_numbers=policy_numbers(),
        golden_columns=rows,
        calibration=CALIBRATION,
        dictionaries={"note": NOTES},
        reference=usual_values(plan(), {i: values[i] for i in inputs}, ~fraud),
        metrics={"ap": 0.5},
    )


@lru_cache
def rules_only() -> Bundle:
    numbers = Policy(PolicyFile(rules=RULES)).start()
    return build_bundle(plan(), models={}, policy_numbers=numbers, golden_columns=columns()[0])
