"""The same job on Riskflow and on other systems: one run, one broker, the same events, in turn, several rounds.

    .venv/bin/python -m bench.compare [--events 300000] [--rounds 3] [--only riskflow,kafka_streams_eos] [--write]
    .venv/bin/python -m bench.compare --check

The job (bench/usecases/peers_job): two entities, four windows, counts and sums before the event, 17 inputs, 100 trees
in ONNX, one score for each event. The others are in bench/peers; their environment is made on the first run. Each
system runs the course of bench/course.py; a run in which an event has no score, or two, is marked.
--write puts table and chart into docs/benchmarks.md. --check measures nothing: it gives all systems the same events on
one partition and holds each score against a replay of the log, which shows that all of them do the same job.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import polars as pl

from batch.history import history_columns
from batch.replay import replay
from bench import chart, report
from bench.clock import Arrivals
from bench.course import Result
from bench.events import payments
from bench.peers.environment import environment as peers_environment
from bench.peers.runs import Runs
from bench.peers.systems import RISKFLOW, SYSTEMS, System
from bench.prepare import TRAINING_EVENTS, fitted, plan_of, services
from riskflow.bundle import Bundle
from riskflow.errors import NotReady
from riskflow.evaluate import ID
from riskflow.plan import Plan
from riskflow.scoring import Scorer

USECASE = "peers_job"
SLOW_EVENTS, WARM = 15_000, 50_000
CHECKED_EVENTS, CLOSE = 3_000, 2e-6  # a score has six decimals with us, a model's float32 elsewhere


@contextmanager
def prepared() -> Iterator[tuple[Runs, Plan, Bundle]]:
    """Services, the one model that all systems use, and the environment of the others."""
    use = peers_environment()
    with services() as folder:
        plan = plan_of(USECASE)
        bundle = fitted(plan, payments(TRAINING_EVENTS))
        yield Runs(folder, plan, bundle, use), plan, bundle


def compare(
    systems: list[System], events: int, rounds: int, partitions: int, timeout_s: float
) -> dict[str, list[Result]]:
    """All systems in turn, round after round. A run that fails is told and left out."""
    found: dict[str, list[Result]] = {system.name: [] for system in systems}
    with prepared() as (runs, _, _):
        for turn in range(rounds):
            for system in systems:
                n = min(events, SLOW_EVENTS) if system.slow else events
                name, warm = f"{system.name}-{turn}", min(WARM, n // 5)
                try:
                    result, _ = runs.run(system, name, payments(n), partitions, warm=warm, timeout_s=timeout_s)
                except NotReady as error:
                    print(json.dumps({"system": system.name, "round": turn, "failed": str(error)}), flush=True)
                    continue
                print(json.dumps({"system": system.name, "round": turn, **asdict(result)}), flush=True)
                found[system.name].append(result)
    return found


def check(systems: list[System], timeout_s: float) -> bool:
    """Whether every system gives the scores that a replay of the log gives; on one partition all have one order."""
    events = payments(CHECKED_EVENTS).unique("occurred_at", keep="first", maintain_order=True)
    good = True
    with prepared() as (runs, plan, bundle):
        wanted = replayed_scores(plan, bundle, events)
        for system in systems:
            in_order = replace(system, options=system.options + system.in_order)
            _, came = runs.run(in_order, f"{system.name}-check", events, 1, warm=500, timeout_s=timeout_s)
            apart = furthest(wanted, came)
            good &= apart <= CLOSE
            print(f"{system.name:20} {len(came.keys):6,} scores, at most {apart:.1e} apart", flush=True)
    return good


def replayed_scores(plan: Plan, bundle: Bundle, events: pl.DataFrame) -> dict[str, float]:
    """What each event's score must be."""
    columns = replay(plan, history_columns(plan, {plan.scored.name: events})).columns
    ids: Any = columns[ID]
    return dict(zip(ids.strings(), Scorer(plan, bundle).score(columns).score.tolist(), strict=True))


def furthest(wanted: dict[str, float], came: Arrivals) -> float:
    """The largest difference between a score and what it must be; infinite where one is missing or too many."""
    scores = [json.loads(value) for value in came.values]
    if sorted(s["event_id"] for s in scores) != sorted(wanted):
        return float("inf")
    return max(abs(s["score"] - wanted[s["event_id"]]) for s in scores)


def table(found: dict[str, list[Result]]) -> list[list[str]]:
    """One line a system: medians over the rounds, Riskflow's rate over the system's."""
    ours = _median(found[RISKFLOW], "per_s") if RISKFLOW in found else None
    rows = [
        [
            "system",
            "events/s",
            "from its first score",
            "second half",
            "Riskflow is",
            "CPU us an event",
            "state after a kill",
        ]
    ]
    for system in SYSTEMS:
        runs = found.get(system.name)
        if runs:
            rows.append(_line(system, runs, ours))
    return rows


def _line(system: System, runs: list[Result], ours: float | None) -> list[str]:
    rate = _median(runs, "per_s")
    spread = f"{min(r.per_s for r in runs):,.0f}-{max(r.per_s for r in runs):,.0f}"
    whole = all(r.complete for r in runs)
    return [
        system.title + ("" if whole else " (**not one score for each event**)"),
        f"**{rate:,.0f}** ({spread})",
        f"{_median(runs, 'from_first_per_s'):,.0f}",
        f"{_median(runs, 'second_half_per_s'):,.0f}",
        f"{ours / rate:.2f} times as fast" if ours and system.name != RISKFLOW else "",
        f"{_median(runs, 'cpu_us'):,.0f}",
        system.state,
    ]


def _median(runs: list[Result], what: str) -> float:
    return statistics.median(float(getattr(run, what)) for run in runs)


def write(found: dict[str, list[Result]], events: int, rounds: int) -> None:
    """Table and chart into the docs."""
    bars = [
        chart.Bar(
            s.title.replace("*", "").replace("`", ""), _median(found[s.name], "per_s"), s.state, s.name == RISKFLOW
        )
        for s in SYSTEMS
        if s.name in found
    ]
    chart.save(
        report.DOCS / "benchmarks.svg",
        chart.bars("events/s from when the events are there to the last score; state after a kill", bars),
    )
    said = (
        f"{events:,} events ({min(events, SLOW_EVENTS):,} for Faust), {rounds} rounds, medians (lowest-highest), "
        f"{os.cpu_count()} cores. `python -m bench.compare --events {events} --rounds {rounds} --write`"
    )
    report.put("compare", f"{report.markdown(table(found))}\n\n{said}\n\n![events a second](benchmarks.svg)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one run")
    parser.add_argument("--only", default="", help=f"some of {','.join(s.name for s in SYSTEMS)}")
    parser.add_argument("--check", action="store_true", help="whether all systems give the same scores, nothing else")
    parser.add_argument("--write", action="store_true", help="put table and chart into docs/benchmarks.md")
    args = parser.parse_args()
    chosen = [s for s in SYSTEMS if not args.only or s.name in args.only.split(",")]
    if args.check:
        raise SystemExit(0 if check(chosen, args.timeout) else 1)
    found = compare(chosen, args.events, args.rounds, args.partitions, args.timeout)
    print(report.markdown(table(found)))
    if args.write:
        write(found, args.events, args.rounds)


if __name__ == "__main__":
    main()
