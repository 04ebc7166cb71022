"""The same job on Riskflow and on other systems: one run, one broker, the same events, in turn, several rounds.

    .venv/bin/python -m bench.compare [--events 300000] [--rounds 3] [--only riskflow,kafka_streams_eos] [--write]

The job (bench/usecases/peers_job): two entities, four windows, counts and sums before the event, 17 inputs, 100 trees
in ONNX, one score for each event. The others are in bench/peers; their environment is made on the first run. Each
system runs the course of bench/course.py; a run in which an event has no score, or two, is marked.
--write puts table and chart into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from kafka.admin import KafkaAdminClient, NewTopic

from batch import topics
from batch.topics import BROKER_TIME
from bench import chart, course, report
from bench.course import Result
from bench.events import payments
from bench.peers.environment import Environment
from bench.peers.environment import environment as peers_environment
from bench.peers.systems import RISKFLOW, SYSTEMS, Place, System
from bench.prepare import environment, fitted, names_of, plan_of, publish, services
from bench.stream import workers
from riskflow.bundle import Bundle
from riskflow.plan import Plan
from riskflow.settings import settings

USECASE = "peers_job"
SLOW_EVENTS = 15_000
WARM = 50_000
TRAINING_EVENTS = 30_000
STOP_S = 20.0


class Comparison:
    """What all runs share."""

    def __init__(self, folder: Path, plan: Plan, bundle: Bundle, use: Environment, partitions: int) -> None:
        self.folder, self.plan, self.bundle, self.use, self.partitions = folder, plan, bundle, use, partitions
        self.model = folder / "model.onnx"
        self.model.write_bytes(next(content for name, content in bundle.files.items() if name.endswith(".onnx")))

    def run(self, system: System, turn: int, events: int, timeout_s: float) -> Result:
        """One system, on topics of its own, which hold the same events for all."""
        run = self._riskflow if system.name == RISKFLOW else partial(self._peer, system)
        return run(f"{system.name}-{turn}", min(events, SLOW_EVENTS) if system.slow else events, timeout_s)

    def _riskflow(self, name: str, events: int, timeout_s: float) -> Result:
        environment(RISKFLOW_TOPIC_PREFIX=f"{name}.")
        topics.make(self.plan, settings(), self.partitions)
        publish(self.plan, self.bundle)
        names = names_of(self.plan)
        return course.run(
            settings().kafka, (names.feed("events"), names.scores), payments(events), partial(workers, USECASE),
            warm=_warm(events), timeout_s=timeout_s,
        )  # fmt: skip

    def _peer(self, system: System, name: str, events: int, timeout_s: float) -> Result:
        place = Place(
            settings().kafka, f"{name}.events", f"{name}.scores", self.partitions, self.model, self.folder / name
        )
        place.folder.mkdir()
        admin = KafkaAdminClient(bootstrap_servers=place.bootstrap)
        admin.create_topics(
            [NewTopic(t, self.partitions, 1, topic_configs=BROKER_TIME) for t in (place.source, place.out)]
        )
        admin.close()
        return course.run(
            place.bootstrap, (place.source, place.out), payments(events),
            lambda: _running(system.command(self.use, place), place.folder / "log"),
            warm=_warm(events), timeout_s=timeout_s, sees_open=system.sees_open,
        )  # fmt: skip


def _warm(events: int) -> int:
    return min(WARM, events // 5)


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[list[int]]:
    """A system's process, ended with the block; the end of its log is told when it failed."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        yield [process.pid]
    except BaseException:
        print(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def compare(
    systems: list[System], events: int, rounds: int, partitions: int, timeout_s: float
) -> dict[str, list[Result]]:
    """All systems in turn, round after round."""
    use = peers_environment()
    found: dict[str, list[Result]] = {system.name: [] for system in systems}
    with services() as folder:
        plan = plan_of(USECASE)
        comparison = Comparison(folder, plan, fitted(plan, payments(TRAINING_EVENTS)), use, partitions)
        for turn in range(rounds):
            for system in systems:
                result = comparison.run(system, turn, events, timeout_s)
                print(json.dumps({"system": system.name, "round": turn, **asdict(result)}), flush=True)
                found[system.name].append(result)
    return found


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
        report.DOCS / "benchmarks.svg", chart.bars("events/s, from when the events are there to the last score", bars)
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
    parser.add_argument("--write", action="store_true", help="put table and chart into docs/benchmarks.md")
    args = parser.parse_args()
    chosen = [s for s in SYSTEMS if not args.only or s.name in args.only.split(",")]
    found = compare(chosen, args.events, args.rounds, args.partitions, args.timeout)
    print(report.markdown(table(found)))
    if args.write:
        write(found, args.events, args.rounds)


if __name__ == "__main__":
    main()
