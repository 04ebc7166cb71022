"""History through the kernel, and a retraining on it from the lake to a published bundle.

    .venv/bin/python -m bench.replay [--transactions 1500000] [--train-days 28]
    .venv/bin/python -m bench.replay --events tx.parquet --columns event_id=ID,occurred_at=TIME,...

Without --events a history of 150 days is simulated. The lake holds it as a first start leaves it there; then come the
steps of `riskflow retrain --local` after the archive: check, replay, train, judge, publish.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from batch.generations import FILES, Generations, Start
from batch.history import history_columns
from batch.importer import column_map, history
from batch.local_chain import train_here
from batch.publish import GatesFailed
from batch.replay import Replayed, replay
from batch.run import Run
from batch.simulate import simulate
from bench.events import START_MS
from bench.prepare import plan_of, services
from riskflow.columns import Columns, n_rows
from riskflow.durations import duration_ms
from riskflow.keys import make_keys
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import settings

DAYS, A_DAY = 150, 2.0  # of the simulated history, payments of a customer on a day
USECASE = "card_fraud"


@dataclass
class Times:
    """Seconds of wall clock and of CPU time of each step."""

    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    def of(self, step: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        done = work()
        self.wall_s[step] = round(time.perf_counter() - wall, 2)
        self.cpu_s[step] = round(time.process_time() - cpu, 2)
        return done


def simulated(transactions: int) -> dict[str, pl.DataFrame | None]:
    """Events and labels of a world of that size."""
    customers = max(1, round(transactions / DAYS / A_DAY))
    world = simulate(1, START_MS, days=DAYS, customers=customers, terminals=2 * customers, per_day=A_DAY)
    return {"events": world.events, "labels": world.labels}


def read(path: Path, columns: str, delay: str) -> dict[str, pl.DataFrame | None]:
    """Events and labels of a file."""
    events, labels = history(path, column_map(columns), duration_ms(delay))
    return {"events": events, "labels": labels}


def measure(plan: Plan, tables: dict[str, pl.DataFrame | None], train_days: int | None) -> dict[str, Any]:
    """Kernel and retraining, timed step by step."""
    times = Times()
    columns = times.of("columns", lambda: history_columns(plan, tables))
    replayed: Replayed = times.of("kernel", lambda: replay(plan, columns))
    into_lake(plan, columns, replayed)
    del replayed
    outcome = retrain(plan, train_days, times)
    rows = n_rows(columns)
    events = len(tables["events"]) if tables["events"] is not None else 0
    return {
        "events": events,
        "rows_with_labels": rows,
        "kernel_rows_per_wall_s": round(rows / times.wall_s["kernel"]),
        "kernel_rows_per_cpu_s": round(rows / times.cpu_s["kernel"]),
        "retrain_s": round(sum(times.wall_s[s] for s in STEPS), 1),
        "wall_s": times.wall_s,
        "cpu_s": times.cpu_s,
        "outcome": outcome,
    }


STEPS = ("check", "replay", "train", "judge", "publish")


def into_lake(plan: Plan, columns: Columns, replayed: Replayed) -> None:
    """The lake as a first start on files leaves it."""
    generations = Generations(plan, Names(plan.name), settings().lake_folder)
    generations.write(Start(1, FILES, layout=plan.layout_fingerprint), replayed.records, None, columns)


def retrain(plan: Plan, train_days: int | None, times: Times) -> str:
    """From the lake to a published bundle, or to a refusal: a gate may not like somebody else's history."""
    make_keys(settings().keys_folder)
    run = Run.of(plan, settings(), "bench")
    if train_days:
        run = replace(run, pipeline=run.pipeline.learning_from(train_days))
    began: dict[str, tuple[float, float]] = {}

    def tell(step: str, state: str, _detail: str) -> None:
        now = time.perf_counter(), time.process_time()
        if state == "running":
            began[step] = now
        else:
            times.wall_s[step] = round(now[0] - began[step][0], 1)
            times.cpu_s[step] = round(now[1] - began[step][1], 1)

    try:
        published = train_here(run, tell, who="bench", why="to measure")
    except GatesFailed as refusal:
        return str(refusal)
    return f"{published['candidate']} is published as version {published['version']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=1_500_000, help="of the simulated history")
    parser.add_argument("--events", type=Path, help="a Parquet or CSV file instead")
    parser.add_argument("--columns", default="", help="field=COLUMN,... for columns with other names")
    parser.add_argument("--delay", default="7d", help="when a column is_fraud became known, after the event")
    parser.add_argument("--train-days", type=int, help="learn from so many days instead of the pipeline's span")
    args = parser.parse_args()
    tables = read(args.events, args.columns, args.delay) if args.events else simulated(args.transactions)
    with services():
        print(json.dumps(measure(plan_of(USECASE), tables, args.train_days)))


if __name__ == "__main__":
    main()
