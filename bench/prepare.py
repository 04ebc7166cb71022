"""Services, topics, heads and a trained champion for a measurement, in a folder and on ports of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch import retrain, topics
from batch.retrain import Run
from batch.simulate import simulate
from cli.common import load_plan
from ops import local
from riskflow.keys import make_keys
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import settings

START_MS = 1_700_000_000_000


@contextmanager
def prepared(usecase: str, partitions: int) -> Iterator[Names]:
    """Kafka and Redis with everything a worker of the use case needs; gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, local.running(Path(folder), False, usual_ports=False) as services:
        os.environ.update(services.environment())
        settings.cache_clear()
        plan = load_plan(usecase)
        topics.make(plan, settings(), partitions)
        publish_champion(plan)
        yield Names(plan.name, 1, settings().topic_prefix)


def publish_champion(plan: Plan) -> None:
    """The use case's own models, trained on a simulated history."""
    world = simulate(1, START_MS, days=60, customers=800, terminals=300)
    run = Run.of(plan, settings(), "bench")
    make_keys(settings().keys_folder)
    retrain.frame_from_tables(run, {"events": world.events, "labels": world.labels})
    retrain.train_all(run)
    retrain.judge_run(run, alone=True)
    retrain.publish_run(run, who="bench", why="to measure")
