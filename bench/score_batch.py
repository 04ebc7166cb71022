"""How long batch scoring and a backtest of a large archive take, and whether every score is the one that was archived.

    .venv/bin/python -m bench.score_batch [--transactions 1570000] [--fold]

A history of 150 days is simulated, scored in blocks as the stream does, and written to a lake, a file for each day.
Then a process of its own scores it anew, from the first byte that is read to the last that is written. --fold: with
features worked out again from the first row on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from batch import lake, retrain
from batch.history import history_columns
from batch.past import ACTION, BUNDLE, SCORE
from batch.replay import replay
from batch.run import Run
from batch.simulate import simulate
from bench.events import START_MS
from bench.prepare import environment
from bench.replay import simulated
from cli.common import load_plan
from riskflow.bundle import Bundle
from riskflow.columns import Columns, n_rows, take
from riskflow.evaluate import KIND, TIME
from riskflow.policy import DAY_MS
from riskflow.scoring import Scorer
from riskflow.settings import settings
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, log_columns

USECASE = "card_fraud"
BLOCKS = (1, 2, 7, 64, 512, 4_096)
FOLDED, OUT = "--fold", "scores.parquet"


def make_lake(run: Run, transactions: int) -> None:
    """What stream and archive would have left of that many payments."""
    rows = replay(run.plan, history_columns(run.plan, simulated(transactions))).columns
    rows = _as_streamed(run, rows, trained(run))
    days = np.asarray(rows[TIME]) // DAY_MS
    for day in np.unique(days).tolist():
        mine = take(rows, np.flatnonzero(days == day))
        first, last = (int(np.asarray(mine[lake.OFFSET])[at]) for at in (0, -1))
        path = run.conf.lake_folder / run.names.rows / f"date={day}" / lake.part_name(0, first, last)
        path.parent.mkdir(parents=True)
        lake.frame_of(mine).write_parquet(path, compression="zstd")


def trained(run: Run) -> Bundle:
    """The use case's own models, raced on a history of two months."""
    path = run.folder / retrain.BUNDLE
    if not path.is_file():
        world = simulate(1, START_MS, days=60, customers=800, terminals=300)
        retrain.frame_from_tables(run, {"events": world.events, "labels": world.labels})
        retrain.train_all(run)
        retrain.judge_run(run, alone=True)
    return Bundle.from_bytes(path.read_bytes())


def _as_streamed(run: Run, rows: Columns, bundle: Bundle) -> Columns:
    """Rows with the scores and positions that one partition of each stage gives."""
    n, scorer, rng = n_rows(rows), Scorer(run.plan, bundle), np.random.default_rng(0)
    score, action = np.full(n, np.nan), np.full(n, -1, np.int8)
    events = np.flatnonzero(np.asarray(rows[KIND]) == 0)
    first = 0
    while first < len(events):
        block = events[first : first + int(rng.choice(BLOCKS))]
        found = scorer.score(take({name: rows[name] for name in scorer.columns}, block))
        score[block], action[block] = found.score, found.action
        first += len(block)
    numbers, zeros = np.arange(n, dtype=np.int64), np.zeros(n, np.int32)
    logs: Any = {
        name: value for e in run.plan.entities for name, value in zip(log_columns(e), (numbers, zeros), strict=True)
    }
    places: Columns = {lake.PARTITION: zeros, lake.OFFSET: numbers, lake.ROW: zeros, lake.EPOCH: numbers * 0}
    stamps: Columns = {INTAKE_LOG: numbers, INTAKE_PARTITION: zeros, lake.BROKER_MS: rows[TIME], **logs, **places}
    return {**rows, **stamps, SCORE: score, ACTION: action, BUNDLE: np.full(n, bundle.version, np.int64)}


def measure(run: Run, folded: bool) -> dict[str, Any]:
    """Batch scoring and a backtest, each from the lake to its result."""
    from batch.backtest import backtest
    from batch.score_batch import past_for, score_columns, score_table

    bundle = trained(run)

    def needs(_: int) -> dict[str, str]:
        return bundle.needed

    began = time.perf_counter()
    found = past_for(run, bundle, needs, fold=folded)
    read_s = time.perf_counter() - began
    scores = score_columns(Scorer(run.plan, bundle), found.columns)
    scored_s = time.perf_counter() - began - read_s
    score_table(bundle, found.columns, scores).write_parquet(run.conf.home / OUT, compression="zstd")
    whole_s = time.perf_counter() - began
    equal = _same(scores.score, found.columns[SCORE]) and _same(scores.action, found.columns[ACTION])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    del found
    began = time.perf_counter()
    tried = backtest(run, bundle, needs, segments=["channel"], fold=folded).summary()
    return {
        "events": len(scores.score), "features": "worked out again" if folded else "as archived",
        "score_batch_s": round(whole_s, 1), "of_it_reading_s": round(read_s, 1), "of_it_scoring_s": round(scored_s, 1),
        "every_score_and_action_equal": equal, "peak_mib": peak, "backtest_s": round(time.perf_counter() - began, 1),
        "flipped": tried["flipped"], "cpus": os.cpu_count(),
    }  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    return np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=1_570_000, help="asked for; a few fewer come")
    parser.add_argument(FOLDED, action="store_true", dest="folded", help="work features out again")
    parser.add_argument(
        "--lake", type=Path, help="a folder that this command has filled before, or is to fill and keep"
    )
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.lake or Path(temporary)
        environment(RISKFLOW_HOME=str(home))
        run = Run.of(load_plan(USECASE), settings(), "bench")
        if args.measure:
            print(json.dumps(measure(run, args.folded)))
            return
        if not run.conf.lake_folder.is_dir():
            make_lake(run, args.transactions)
        again = [sys.executable, "-m", "bench.score_batch", "--measure", "--lake", str(home)]
        subprocess.run([*again, *([FOLDED] if args.folded else [])], check=True)


if __name__ == "__main__":
    main()
