"""Services, topics, heads and a trained champion for a measurement, in a folder and on ports of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import redis

from batch import retrain, topics
from batch.bundling import build_bundle
from batch.history import history_columns
from batch.replay import replay
from batch.run import Run
from batch.simulate import simulate
from batch.train import make, one_thread
from bench.events import START_MS, payments
from cli.common import load_plan
from ops import local
from riskflow.bundle import Bundle
from riskflow.columns import n_rows, take
from riskflow.keys import load_private_key, make_keys
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.policy import Policy
from riskflow.registry import Registry
from riskflow.scoring import model_matrix
from riskflow.settings import settings

USECASES = Path(__file__).parent / "usecases"
TRAINING_EVENTS = 30_000
GOLDEN_ROWS = 64


@contextmanager
def services() -> Iterator[Path]:
    """Kafka and Redis, gone afterwards; this process and what it starts use them. Gives their folder."""
    with tempfile.TemporaryDirectory() as folder, local.running(Path(folder), False, usual_ports=False) as found:
        environment(**found.environment())
        yield Path(folder)


def environment(**values: str) -> None:
    """Sets environment variables, for this process and for what it starts."""
    os.environ.update(values)
    settings.cache_clear()


def plan_of(usecase: str) -> Plan:
    """A use case of the project, or one of those that are there to be measured."""
    if (USECASES / usecase).is_dir():
        environment(RISKFLOW_USECASES=str(USECASES))
    return load_plan(usecase)


@contextmanager
def prepared(usecase: str, partitions: int) -> Iterator[Names]:
    """Kafka and Redis with everything a worker of the use case needs; gone afterwards."""
    with services():
        plan = plan_of(usecase)
        topics.make(plan, settings(), partitions)
        publish_champion(plan)
        yield names_of(plan)


def names_of(plan: Plan) -> Names:
    return Names(plan.name, 1, settings().topic_prefix)


def publish_champion(plan: Plan) -> None:
    """The use case's own models, trained on a simulated history."""
    make_keys(settings().keys_folder)
    if any(feed.about for feed in plan.usecase.feeds):
        _retrain(plan)
    else:
        publish(plan, fitted(plan, payments(TRAINING_EVENTS)))


def publish(plan: Plan, bundle: Bundle) -> None:
    """Signs a bundle and makes it the champion."""
    keys = settings().keys_folder
    make_keys(keys)
    client = redis.Redis.from_url(settings().redis_url)
    Registry(client, names_of(plan)).publish(bundle, load_private_key(keys), who="bench", why="to measure")


def fitted(plan: Plan, table: pl.DataFrame) -> Bundle:
    """Each model's first candidate, fitted to a made-up target on the features of these events."""
    rows = replay(plan, history_columns(plan, {plan.scored.name: table})).columns
    amount: Any = rows["amount"]
    target = (np.random.default_rng(0).random(len(amount)) < np.where(amount > 150, 0.5, 0.01)).astype(int)
    models = {}
    for name in plan.models:
        inputs = plan.model_inputs(name)
        factory = next(iter(plan.usecase.models[name].candidates.values()))
        with one_thread():
            models[name] = make(factory, inputs).fit(model_matrix(inputs, rows, n_rows(rows)), target)
    numbers = Policy.load(plan.usecase.folder / "policy.yaml").start() | {"review": 0.99}
    return build_bundle(plan, models=models, policy_numbers=numbers, golden_columns=take(rows, np.arange(GOLDEN_ROWS)))


def _retrain(plan: Plan) -> None:
    world = simulate(1, START_MS, days=60, customers=800, terminals=300)
    run = Run.of(plan, settings(), "bench")
    retrain.frame_from_tables(run, {"events": world.events, "labels": world.labels})
    retrain.train_all(run)
    retrain.judge_run(run, alone=True)
    retrain.publish_run(run, who="bench", why="to measure")
