"""What counting for drift costs beside scoring, in one run: the same blocks are scored and counted in turn.

    .venv/bin/python -m bench.drift [--features 1000] [--events 65536]

Scoring is `Scorer.score` alone (matrix, one model of 100 trees, policy), without reading, sending or reasons. The
features are made-up numbers. `snapshot_ms` is what a snapshot with its gauges takes, every 30 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from batch.bundling import build_bundle
from batch.profile import profile_of
from batch.train import make, one_thread
from bench.generated import Shape, write_usecase
from bench.prepare import environment
from cli.common import load_plan
from riskflow.bundle import Bundle
from riskflow.columns import Columns, Text, take
from riskflow.plan import Plan
from riskflow.policy import Policy
from riskflow.scoring import Scorer, model_matrix
from stream.drift import Counted, Drift, show
from stream.swap import Live

BLOCKS = (1, 8, 64, 512, 4096)
TRAINING_ROWS = 4_000


def made_up(plan: Plan, rows: int, seed: int) -> Columns:
    """Rows as they reach scoring; every tenth value is not known."""
    rng = np.random.default_rng(seed)
    out: Columns = {name: rng.gamma(1.0, 30.0, rows) for name in ("amount", *plan.features)}
    for column in out.values():
        column[rng.random(rows) < 0.1] = np.nan  # type: ignore[index]
    ids = Text.of_strings(f"tx-{seed}-{i:08}" for i in range(rows))
    return {**out, "_id": ids, "at_ms": 1_750_000_000_000 + np.arange(rows)}


def bundle_of(plan: Plan) -> Bundle:
    rows = made_up(plan, TRAINING_ROWS, 0)
    amount: Any = rows["amount"]
    fraud = (np.nan_to_num(amount) > 90).astype(int)
    inputs = plan.model_inputs("risk")
    with one_thread():
        factory = plan.usecase.models["risk"].candidates["boosted"]
        model = make(factory, inputs).fit(model_matrix(inputs, rows, len(fraud)), fraud)
    numbers = Policy.load(plan.usecase.folder / "policy.yaml").start() | {"review": 0.99}
    entities: Columns = dict.fromkeys(plan.entities, rows["_id"])
    profile = profile_of(plan, {n: rows[n] for n in inputs}, entities, fraud.astype(np.float64), entities)
    golden = take(rows, np.arange(64))
    return build_bundle(plan, models={"risk": model}, policy_numbers=numbers, golden_columns=golden, profile=profile)


async def measure(plan: Plan, events: int) -> dict[str, Any]:
    """Seconds of scoring and of counting, for each size of block."""
    bundle = bundle_of(plan)
    live = Live(1, bundle.content_hash, Scorer(plan, bundle))
    drift = Drift("bench", "bench.drift", "bench/0", _nowhere, 1000.0)
    rows = made_up(plan, min(events, 8192), 1)
    out = {f"block_{size}": _shares(drift, live, rows, size, events if size >= 64 else events // 64) for size in BLOCKS}
    counted = drift._counted[live.hash]
    return {**out, "snapshot_ms": _snapshot_ms(counted), "share_of_events": round(counted.share, 4)}


def _shares(drift: Drift, live: Live, rows: Columns, size: int, events: int) -> dict[str, float]:
    scoring_s = counting_s = 0.0
    n = len(rows["at_ms"])
    for first in range(-16 * size, events, size):
        block = take(rows, np.arange(first, first + size) % n)
        began = time.perf_counter()
        scored = live.scorer.score(block)
        between = time.perf_counter()
        drift.observe(live, block, scored)
        if first >= 0:  # the first blocks warm up
            scoring_s += between - began
            counting_s += time.perf_counter() - between
    done = len(range(0, events, size)) * size
    return {
        "scoring_us_an_event": round(1e6 * scoring_s / done, 3),
        "counting_us_an_event": round(1e6 * counting_s / done, 3),
        "share": round(counting_s / scoring_s, 4),
    }


def _snapshot_ms(counted: Counted) -> float:
    began = time.perf_counter()
    counted.snapshot(0)
    show("bench", counted.reference, counted.recent())
    return round(1e3 * (time.perf_counter() - began), 2)


async def _nowhere(topic: str, partition: int, records: Any) -> list[Any]:
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=65_536)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        shape = Shape(2, args.features)
        write_usecase(Path(folder), shape)
        environment(RISKFLOW_USECASES=folder)
        found = asyncio.run(measure(load_plan(shape.name), args.events))
    print(json.dumps({"features": args.features, **found}, indent=2))


if __name__ == "__main__":
    main()
