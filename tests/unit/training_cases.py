"""A small use case with two layers, and rows to learn from, made without a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from batch.training_set import TrainingSet
from riskflow.columns import Text
from riskflow.declare import Feed, Model
from riskflow.plan import Plan
from tests.unit.kernel_cases import card, payments, plan_of, shop

DAY = 86_400_000
START = 20_000 * DAY

labels = Feed(
    "labels",
    id="label_id",
    at="labelled_at",
    about="payment_id",
    fields={"is_fraud": bool, "payment_id": str, "source": str | None},
)


def linear() -> Any:
    return LogisticRegression()


def tree() -> Any:
    return DecisionTreeClassifier(max_depth=3, random_state=0)


def noise(at_ms: Any) -> Any:
    return np.sin(np.asarray(at_ms, np.float64) * 12.9898) * 43758.5453 % 1.0


def small_plan(lower: Callable[[], Any] = linear, **upper: Callable[[], Any]) -> Plan:
    """`hint` listens to the amount, `verdict` to the hint and to noise."""
    return plan_of(
        noise,
        payments=payments,
        reports=labels,
        card=card,
        shop=shop,
        hint=Model(uses=["amount"], candidates={"lower": lower}),
        verdict=Model(uses=["hint", "noise"], candidates=upper or {"linear": linear, "tree": tree}),
    )


def rows(n: int = 4000, days: float = 28.0, seed: int = 0, cards: int = 50) -> TrainingSet:
    """Every tenth payment is a fraud, and frauds are larger."""
    rng = np.random.default_rng(seed)
    at_ms = START + np.sort(rng.integers(0, int(days * DAY), n))
    fraud = (rng.random(n) < 0.1).astype(np.float64)
    amount = rng.gamma(2.0, 20.0, n) * (1 + 2 * fraud)
    columns: Any = {
        "_id": Text.of_strings(f"p{i}" for i in range(n)),
        "at_ms": at_ms,
        "card": Text.of_strings(f"c{i}" for i in rng.integers(0, cards, n)),
        "shop": Text.of_strings(f"s{i}" for i in rng.integers(0, 9, n)),
        "amount": amount,
        "channel": rng.integers(-1, 2, n).astype(np.int32),
        "note": Text.of([Text.MISSING] * n),
        "noise": np.sin(at_ms.astype(np.float64) * 12.9898) * 43758.5453 % 1.0,
    }
    return TrainingSet(columns, fraud)
