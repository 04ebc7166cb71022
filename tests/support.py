"""What several suites need: a use case's topics and a small champion, made quickly."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from riskflow.columns import Columns, take
from riskflow.connect import connect
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import settings
from riskflow.usecase import load_usecase

_seeds = itertools.count(1)


def plan_of(usecase: str = "card_fraud") -> Plan:
    return Plan.of(load_usecase(usecase, settings().usecases))


def names_of(plan: Plan, generation: int = 1) -> Names:
    return Names(plan.name, generation, settings().topic_prefix)


def store() -> Any:
    return connect(settings().redis_url)


def small_model(inputs: int, seed: int) -> Any:
    """A quick classifier on made-up numbers: what it says does not matter, that it says the same again does."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(seed)
    x = rng.gamma(1.0, 50.0, (600, inputs))
    y = (x[:, 0] + rng.normal(0, 20, 600) > 80).astype(int)
    return HistGradientBoostingClassifier(max_iter=10, max_leaf_nodes=8, random_state=seed).fit(x, y)


def made_up_rows(plan: Plan) -> Columns:
    """Scored rows with every feature, from a small simulated history."""
    from batch.history import history_columns
    from batch.replay import replay
    from batch.simulate import simulate

    world = simulate(1, 1_700_000_000_000, days=5, customers=20, terminals=10)
    rows = replay(plan, history_columns(plan, {"events": world.events, "labels": world.labels})).columns
    return take(rows, np.flatnonzero(np.asarray(rows["_kind"]) == 0)[-64:])


def small_bundle(plan: Plan, **policy: float) -> Any:
    """An unsigned bundle whose models were trained on the spot. policy: numbers of its own."""
    from batch.bundling import build_bundle
    from riskflow.policy import Policy

    seed = next(_seeds)
    models = {name: small_model(len(plan.model_inputs(name)), seed) for name in plan.models}
    numbers = Policy.load(plan.usecase.folder / "policy.yaml").start() | {"review": 0.9, "decline": 0.99, **policy}
    return build_bundle(plan, models=models, policy_numbers=numbers, golden_columns=made_up_rows(plan))


def publish_small(plan: Plan, why: str = "test", **policy: float) -> int:
    """Publishes a champion; returns its version."""
    from riskflow.keys import load_private_key, make_keys
    from riskflow.registry import Registry

    keys = settings().keys_folder
    make_keys(keys)
    registry = Registry(store(), names_of(plan))
    return registry.publish(small_bundle(plan, **policy), load_private_key(keys), who="test", why=why).version


def wait(condition: Callable[[], Any], timeout_s: float) -> None:
    """Polls until the condition holds; fails the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.2)
