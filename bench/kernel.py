"""How fast the kernel is, in events for each second of CPU time of one core (wall clock beside it).

    .venv/bin/python bench/kernel.py [--events 262144] [--json]

loop      the kernel alone over unpacked states, 12 windows
observe   unpack, loop and pack, in blocks of several sizes
replay    both stages of card_fraud with ids, hashes, windows and calculations
start     import and first block with a warm compile cache, in a process of its own
record    bytes of a customer with 60 payments in 30 days
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from riskflow import evaluate
from riskflow import windows as kernel
from riskflow.columns import Columns, Text, take
from riskflow.declare import Count, Entity, Feed, Mean, Sum, Windows
from riskflow.plan import Plan
from riskflow.settings import settings
from riskflow.usecase import from_modules, load_usecase

START, DAY = 1_750_000_000_000, 86_400_000
BLOCKS = (512, 4096, 65536)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1 << 18)
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.events, options.repeat)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:28} {value:>14,.4g}" if isinstance(value, float) else f"{name:28} {value:>14,}")


def measure(n: int, repeat: int) -> dict[str, float]:
    found: dict[str, float] = {}
    twelve, fraud = twelve_windows(), Plan.of(load_usecase("card_fraud", settings().usecases))
    rows = payments(fraud, n, customers=n // 60, terminals=n // 120)
    found |= rates("loop", n, repeat, lambda: loop_alone(twelve, rows))
    for size in BLOCKS:
        found |= rates(f"observe_{size}", n, repeat, lambda size=size: in_blocks(twelve, rows, size))
    for size in (4096, 65536):
        found |= rates(f"replay_{size}", n, repeat, lambda size=size: in_blocks(fraud, rows, size))
    found["start_s"] = start_seconds()
    found["record_bytes"] = record_bytes(fraud)
    return found


def rates(name: str, n: int, repeat: int, run: Callable[[], Callable[[], Any]]) -> dict[str, float]:
    """Best of several runs; `run` prepares and returns what is measured."""
    cpu, wall = [], []
    for _ in range(repeat + 1):  # one to compile and warm up
        work = run()
        start = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return {f"{name}_per_cpu_s": round(n / min(cpu[1:])), f"{name}_per_wall_s": round(n / min(wall[1:]))}


def twelve_windows() -> Plan:
    """One entity, three aggregates over four windows."""
    module = types.ModuleType("twelve")
    customer = Entity("customer_id")
    vars(module).update(
        customer=customer,
        events=Feed("events", id="event_id", at="occurred_at", fields={"amount": float}),
        spent=Windows(by=customer, over=["1h", "1d", "7d", "30d"], amount=[Count(), Sum(), Mean()]),
    )
    return Plan.of(from_modules("twelve", Path("twelve"), [module]))


def payments(plan: Plan, n: int, customers: int, terminals: int, days: int = 30) -> Columns:
    """Payments in order of time; 1 % late by up to an hour."""
    rng = np.random.default_rng(1)
    at_ms = START + np.sort(rng.integers(0, days * DAY, n)) - rng.integers(0, 3_600_000, n) * (rng.random(n) < 0.01)
    columns: Columns = {
        evaluate.KIND: np.zeros(n, np.int8),
        evaluate.ID: Text.of([b"event-%09d" % i for i in range(n)]),
        evaluate.TIME: at_ms.astype(np.int64),
        "customer_id": Text.of([b"customer-%06d" % i for i in rng.integers(0, customers, n)]),
        "terminal_id": Text.of([b"terminal-%06d" % i for i in rng.integers(0, terminals, n)]),
    }
    for name, kind in plan.fields.items():
        columns[name] = evaluate.empty_field(kind.kind, n)
    columns["amount"] = np.round(rng.gamma(1.0, 50.0, n), 2)
    columns["channel"] = rng.integers(0, 3, n).astype(np.int32)
    return columns


def loop_alone(plan: Plan, columns: Columns) -> Callable[[], Any]:
    stage = plan.stages[0]
    entities, slots = evaluate.entities_of(stage, columns)
    one_partition = np.zeros(len(slots), np.int64), np.zeros(1, np.int64)
    rows = evaluate.kernel_rows(plan, stage, columns, slots, *one_partition)
    counts = np.bincount(slots, minlength=len(entities))
    room = np.tile(counts[:, None], (1, len(stage.layout.rings)))
    states = kernel.unpack(stage.layout, [None] * len(entities), room)
    return lambda: kernel.fold(stage.loop, stage.layout, len(stage.reads), rows, states)


def in_blocks(plan: Plan, columns: Columns, size: int) -> Callable[[], Any]:
    n = len(columns[evaluate.TIME])
    blocks = [take(columns, np.arange(a, min(n, a + size))) for a in range(0, n, size)]
    return lambda: replay(plan, blocks)


def replay(plan: Plan, blocks: list[Columns]) -> list[dict[bytes, bytes]]:
    """All stages over blocks, with records kept packed between them; returns the records."""
    records: list[dict[bytes, bytes]] = [{} for _ in plan.stages]
    watermarks = [{0: 0} for _ in plan.stages]
    failures = evaluate.Failures()
    for block in blocks:
        columns = dict(block)
        evaluate.start(plan, columns, failures)
        for stage, known, days in zip(plan.stages, records, watermarks, strict=True):
            entities, slots = evaluate.entities_of(stage, columns)
            out = evaluate.observe(plan, stage, columns, slots, [known.get(e) for e in entities], days, failures)
            known.update(zip(entities, out.records, strict=True))
            days.update(out.watermarks)
            columns = out.columns
    return records


def record_bytes(plan: Plan) -> float:
    """Mean size over 200 customers with 60 payments in 30 days."""
    columns = payments(plan, 200 * 60, customers=1, terminals=50)
    columns["customer_id"] = Text.of([b"customer-%06d" % (i % 200) for i in range(200 * 60)])
    records = replay(plan, [columns])[0]
    return round(sum(map(len, records.values())) / len(records))


def start_seconds() -> float:
    """Import, plan and a first block in a process of its own, with compiled code in its cache."""
    code = (
        "import time; start = time.perf_counter()\n"
        "from bench.kernel import *\n"
        "plan = Plan.of(load_usecase('card_fraud', settings().usecases))\n"
        "replay(plan, [payments(plan, 100, 10, 10)])\n"
        "print(time.perf_counter() - start)"
    )
    out = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    return round(min(out), 2)


if __name__ == "__main__":
    main()
