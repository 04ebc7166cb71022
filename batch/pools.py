"""Airflow's pools, as pipeline.yaml files name them: a task waits for ever where its pool is missing."""

from __future__ import annotations

from pathlib import Path

from batch.airflow_client import Airflow
from batch.pipeline import FILE, Pipeline
from riskflow.settings import Settings


def wanted_pools(usecases: Path) -> dict[str, int]:
    """Name -> slots of all that the use cases name. Of a pool that several name the largest counts."""
    wanted: dict[str, int] = {}
    for path in sorted(usecases.glob(f"*/{FILE}")):
        pool = Pipeline.load(path).file.pool
        if pool:
            wanted[pool.name] = max(pool.slots, wanted.get(pool.name, 0))
    return wanted


def make_pools(conf: Settings) -> dict[str, int]:
    """Makes them, or gives them their slots; returns name -> slots."""
    wanted = wanted_pools(conf.usecases)
    airflow = Airflow.of(conf)
    for name, slots in wanted.items():
        airflow.set_pool(name, slots)
    return wanted
