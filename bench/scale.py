"""How cost grows: with workers, partitions, entities, features, trees, and with what Redis holds.

    .venv/bin/python -m bench.scale [--axis partitions] [--full] [--events 60000] [--write]

Each axis is varied alone, from two entities, 16 features, 100 trees, 8 partitions, one worker and an empty Redis; each
point is one run of the course (bench/course.py) of a use case that is written for it. Quick by default: three points an
axis; --full has all. --write puts charts and sentences into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import redis

from batch import topics
from batch.begin import write_hashes
from batch.history import history_columns
from batch.replay import replay
from bench import chart, course, report
from bench.course import Result
from bench.events import DAYS, PAYMENTS_OF_A_CUSTOMER, START_MS, payments
from bench.generated import Shape, more_ids, write_usecase
from bench.prepare import TRAINING_EVENTS, environment, fitted, names_of, publish, services
from bench.stream import workers
from cli.common import load_plan
from riskflow.columns import Text, partition_of
from riskflow.errors import NotReady
from riskflow.plan import Plan
from riskflow.settings import settings

WARM = 10_000
RECORDS = 1_000  # different ones, given to all entities in turn
MIB = 1 << 20


@dataclass(frozen=True)
class Point:
    """One run. `population`: how many customers Redis knows before it."""

    shape: Shape = field(default_factory=Shape)
    partitions: int = 8
    workers: int = 1
    population: int = 0


@dataclass(frozen=True)
class Axis:
    """What is varied, in words, and how a value makes a point."""

    what: str
    values: tuple[int, ...]

    def chosen(self, full: bool) -> tuple[int, ...]:
        """All values, or the first, a middle one and the last."""
        return self.values if full else (self.values[0], self.values[len(self.values) // 2], self.values[-1])

    def point(self, value: int) -> Point:
        if self.what == "entities":
            return Point(Shape(entities=value, features=8 * value))
        if self.what in ("features", "trees"):
            return Point(replace(Shape(), **{self.what: value}))
        return replace(Point(), **{self.what: value})


AXES = [
    Axis("workers", (1, 2, 4)),
    Axis("partitions", (4, 8, 16, 32, 64)),
    Axis("entities", (1, 2, 3, 4, 6)),
    Axis("features", (5, 20, 50, 100, 200, 500)),
    Axis("trees", (1, 25, 50, 100, 200)),
    Axis("population", (10_000, 100_000, 500_000, 2_000_000)),
]


@dataclass(frozen=True)
class Measured:
    """A run and the memory it needed."""

    result: Result
    redis_mib: float
    redis_bytes_an_entity: float


def measure(point: Point, events: int, name: str) -> Measured:
    """One point on services that run already."""
    environment(RISKFLOW_TOPIC_PREFIX=f"{name}.")
    store = redis.Redis.from_url(settings().redis_url)
    store.flushdb()
    plan = load_plan(point.shape.name)
    topics.make(plan, settings(), point.partitions)
    publish(plan, fitted(plan, payments(TRAINING_EVENTS, more_ids=more_ids(point.shape))))
    before = _used(store)
    table = payments(events, point.population, more_ids=more_ids(point.shape), start_ms=START_MS + DAYS * 86_400_000)
    if point.population:
        seed(plan, store, point)
    names = names_of(plan)
    found, _ = course.run(
        settings().kafka,
        (names.feed("events"), names.scores),
        table,
        partial(workers, plan.name, point.workers),
        warm=min(WARM, events // 5),
        timeout_s=300,
    )
    used = _used(store) - before
    entities = sum(store.hlen(names.records(e, p)) for e in plan.entities for p in range(point.partitions))
    return Measured(found, round(used / MIB, 1), round(used / max(1, entities)))


def _used(store: Any) -> int:
    return int(store.info("memory")["used_memory"])


def seed(plan: Plan, store: Any, point: Point) -> None:
    """Records of a month's payments for so many customers, as a rebuild would write them."""
    ids = [f"c{i}".encode() for i in range(point.population)]
    known = _records(plan, point)
    names, first = names_of(plan), plan.entities[0]
    by_key: dict[str, list[tuple[bytes, bytes]]] = {names.records(first, p): [] for p in range(point.partitions)}
    for i, (name, p) in enumerate(zip(ids, partition_of(Text.of(ids), point.partitions).tolist(), strict=True)):
        by_key[names.records(first, p)].append((b"e:" + name, known[i % len(known)]))
    write_hashes(store, by_key)


def _records(plan: Plan, point: Point) -> list[bytes]:
    """Different records, which the entities are given in turn."""
    ids = more_ids(point.shape)
    table = payments(RECORDS * PAYMENTS_OF_A_CUSTOMER, RECORDS, more_ids=ids, seed=8, prefix="before")
    return list(replay(plan, history_columns(plan, {plan.scored.name: table})).records[plan.entities[0]].values())


def scale(axes: Sequence[Axis], full: bool, events: int) -> dict[str, list[tuple[int, Measured]]]:
    """All points, one after another, on one broker and one Redis. One that fails is told and left out."""
    found: dict[str, list[tuple[int, Measured]]] = {}
    with services() as home:
        folder = home / "usecases"
        for shape in {axis.point(value).shape for axis in axes for value in axis.chosen(full)}:
            write_usecase(folder, shape)
        environment(RISKFLOW_USECASES=str(folder))
        for axis in axes:
            for value in axis.chosen(full):
                try:
                    measured = measure(axis.point(value), events, f"{axis.what}-{value}")
                except NotReady as error:
                    print(json.dumps({"axis": axis.what, "value": value, "failed": str(error)}), flush=True)
                    continue
                print(json.dumps({"axis": axis.what, "value": value, **asdict(measured)}), flush=True)
                found.setdefault(axis.what, []).append((value, measured))
    return found


def sentence(axis: str, points: Sequence[tuple[int, Measured]]) -> str:
    """How cost grows along one axis, in words."""
    (low, first), (high, last) = points[0], points[-1]
    rates = f"{first.result.per_s:,.0f} events/s at {low:,}, {last.result.per_s:,.0f} at {high:,}"
    if axis == "workers":
        return f"**workers**: {rates}, on {os.cpu_count()} cores that broker and Redis share."
    if axis == "population":
        size = f"{last.redis_bytes_an_entity:,.0f} bytes of Redis for each entity, {last.redis_mib:,.0f} MiB in all"
        return f"**customers that Redis knows**: {rates}; {size}."
    more = last.result.cpu_us - first.result.cpu_us
    each = f"{more / (high - low):.2g} us of CPU an event" if more > 1 else "nothing that is seen here"
    return f"**{axis}**: each one more between {low} and {high} costs {each} ({rates})."


def write(found: dict[str, list[tuple[int, Measured]]], command: str, events: int) -> None:
    """Charts, sentences and a table into the docs."""
    charts = []
    for axis, points in found.items():
        by_rate = axis in ("workers", "population")
        values = [m.result.per_s if by_rate else m.result.cpu_us for _, m in points]
        unit = "events/s" if by_rate else "us of CPU an event"
        charts.append((axis, [_short(value) for value, _ in points], values, unit))
    chart.save(report.DOCS / "scale.svg", chart.curves("How cost grows", charts))
    sentences = "\n".join(f"- {sentence(axis, points)}" for axis, points in found.items())
    said = f"{events:,} events a point. `{command}`"
    report.put("scale", f"![how cost grows](scale.svg)\n\n{sentences}\n\n{report.markdown(table(found))}\n\n{said}")


def table(found: dict[str, list[tuple[int, Measured]]]) -> list[list[str]]:
    """One line a point."""
    rows = [["axis", "value", "events/s", "CPU us an event", "workers' memory", "Redis", "bytes an entity"]]
    for axis, points in found.items():
        for value, m in points:
            run = [f"{m.result.per_s:,.0f}", f"{m.result.cpu_us:,.1f}", f"{m.result.peak_mib:,.0f} MiB"]
            rows.append([axis, f"{value:,}", *run, f"{m.redis_mib:,.0f} MiB", f"{m.redis_bytes_an_entity:,.0f}"])
    return rows


def _short(value: int) -> str:
    return f"{value // 1_000_000} M" if value >= 1_000_000 else f"{value // 1_000} k" if value >= 1_000 else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axis", choices=[axis.what for axis in AXES], action="append", help="may be repeated")
    parser.add_argument("--full", action="store_true", help="all points of each axis")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--write", action="store_true", help="put charts and sentences into docs/benchmarks.md")
    args = parser.parse_args()
    found = scale([a for a in AXES if not args.axis or a.what in args.axis], args.full, args.events)
    print(report.markdown(table(found)))
    print("\n".join(sentence(axis, points) for axis, points in found.items()))
    if args.write:
        write(found, " ".join(["python -m bench.scale", *sys.argv[1:]]), args.events)


if __name__ == "__main__":
    main()
