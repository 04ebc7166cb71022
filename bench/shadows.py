"""What shadows cost: the time of a pass's models with none, one and three of them, in turn in one run.

    .venv/bin/python -m bench.shadows [--rows 16,64,512,4096] [--repeat 60] [--json]

The models are card_fraud's own, each bundle trained on another sample of a simulated history; one event in a hundred
is flagged, and explained. *decided* is the time until all decisions of a pass are ready to be sent: models, policy,
reasons, messages. *all* is the time until the shadows have spoken, too, and their messages are ready; CPU is that of
all threads. Each is the best of many passes in turn, in milliseconds: what else runs on the machine only adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import numpy as np

from batch.bundling import build_bundle
from batch.history import history_columns
from batch.replay import replay
from batch.simulate import simulate
from batch.train import make, one_thread
from bench.events import START_MS
from cli.common import load_plan
from riskflow.bundle import Bundle
from riskflow.columns import Columns, Text, n_rows, take
from riskflow.estimators import register_converters
from riskflow.evaluate import DEGRADED, ID, KIND
from riskflow.moves import CHAMPION, SHADOW
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.policy import Policy
from riskflow.scoring import Scorer, model_matrix
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, log_columns
from stream.decided import opinion_messages
from stream.roster import Pin, Roster
from stream.score import Partitions, Score
from stream.swap import Live
from stream.team import Team

SHADOWS = (0, 1, 3)
FLAGGED = 0.01
GOLDEN_ROWS = 64


class Loaded:
    """In the place of stream.swap.Swap: everything is there."""

    def __init__(self, scorers: list[Scorer]) -> None:
        self.lives = [Live(i + 1, str(i), scorer) for i, scorer in enumerate(scorers)]

    async def pinned(self, pin: Pin) -> Live:
        return self.lives[int(pin.hash)]


def events_of(plan: Plan) -> tuple[Columns, Any]:
    """Scored rows with every feature and position, and which of them are fraud."""
    world = simulate(1, START_MS, days=30, customers=800, terminals=300)
    rows = replay(plan, history_columns(plan, {"events": world.events, "labels": world.labels})).columns
    known = set(world.labels.filter(world.labels["is_fraud"])["event_id"].to_list())
    rows = take(rows, np.flatnonzero(np.asarray(rows[KIND]) == 0))
    ids: Any = rows[ID]
    n = n_rows(rows)
    for name in ("intake", *plan.entities):
        log, part = (INTAKE_LOG, INTAKE_PARTITION) if name == "intake" else log_columns(name)
        rows[log], rows[part] = np.arange(n, dtype=np.int64) << 12, np.zeros(n, np.int32)
    rows[DEGRADED] = Text.of([b""] * n)
    return rows, np.array([name in known for name in ids.strings()])


def trained(plan: Plan, rows: Columns, fraud: Any, seed: int) -> Bundle:
    """Each model's first candidate, fitted to a sample of the rows."""
    register_converters()
    rng = np.random.default_rng(seed)
    mine = rng.permutation(n_rows(rows))[: int(0.7 * n_rows(rows))]
    values: dict[str, Any] = take(rows, mine)
    fitted: dict[str, Any] = {}
    for name in plan.models:
        inputs = plan.model_inputs(name)
        matrix = model_matrix(inputs, values, len(mine))
        with one_thread():
            factory = next(iter(plan.usecase.models[name].candidates.values()))
            fitted[name] = make(factory, inputs).fit(matrix, fraud[mine].astype(int))
            values[name] = fitted[name].predict_proba(matrix)[:, 1]
    numbers = Policy.load(plan.usecase.folder / "policy.yaml").start()
    numbers |= {"review": float(np.quantile(values[plan.models[-1]], 1 - FLAGGED))}
    return build_bundle(plan, models=fitted, policy_numbers=numbers, golden_columns=take(rows, mine[:GOLDEN_ROWS]))


def measure(sizes: list[int], repeat: int) -> list[dict[str, Any]]:
    """A line for each size of a pass and number of shadows."""
    plan = load_plan("card_fraud")
    rows, fraud = events_of(plan)
    swap: Any = Loaded([Scorer(plan, trained(plan, rows, fraud, seed)) for seed in range(1 + max(SHADOWS))])
    score = Score(plan, Names(plan.name), swap, "bench", Partitions(1, 1, 1))
    out = []
    for size in sizes:
        found: dict[int, list[tuple[float, float, float]]] = {n: [] for n in SHADOWS}
        for turn in range(repeat + 3):
            first = turn * size % max(1, n_rows(rows) - size)
            block = take(rows, np.arange(first, first + size))
            for n in SHADOWS:
                seconds = asyncio.run(one_pass(plan, swap, score, block, n))
                if turn >= 3:
                    found[n].append(seconds)
        _, alone, alone_cpu = (1000 * min(x) for x in zip(*found[0], strict=True))
        for n, passes in found.items():
            decided, whole, cpu = (1000 * min(x) for x in zip(*passes, strict=True))
            out.append({
                "rows": size, "shadows": n, "decided_ms": round(decided, 3), "all_ms": round(whole, 3),
                "cpu_ms": round(cpu, 3), "times_alone": round(whole / alone, 2),
                "times_alone_cpu": round(cpu / alone_cpu, 2),
            })  # fmt: skip
    return out


async def one_pass(plan: Plan, swap: Any, score: Score, block: Columns, shadows: int) -> tuple[float, float, float]:
    """Seconds until all is decided, until the shadows have spoken, and of CPU."""
    others = tuple(Pin(f"{SHADOW}:s{i}", i + 1, str(i), i + 1) for i in range(1, shadows + 1))
    team = Team(plan, swap, [], Roster(Pin(CHAMPION, 1, "0", 1), None, others))
    began, began_cpu = time.perf_counter(), time.process_time()
    decided, _ = await team.decide(block, score._messages)
    decided_s = time.perf_counter() - began
    if shadows:
        opinion_messages(block, decided, await team.opinions(block))
    return decided_s, time.perf_counter() - began, time.process_time() - began_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="16,64,512,4096", help="events in a pass")
    parser.add_argument("--repeat", type=int, default=60, help="passes of each")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure([int(n) for n in args.rows.split(",")], args.repeat)
    if args.json:
        print(json.dumps(found))
        return
    print(f"{'rows':>6}{'shadows':>9}{'decided ms':>12}{'all ms':>10}{'CPU ms':>10}{'times alone':>13}{'CPU':>7}")
    for line in found:
        print(
            f"{line['rows']:>6}{line['shadows']:>9}{line['decided_ms']:>12.3f}{line['all_ms']:>10.3f}"
            f"{line['cpu_ms']:>10.3f}{line['times_alone']:>13.2f}{line['times_alone_cpu']:>7.2f}"
        )


if __name__ == "__main__":
    main()
