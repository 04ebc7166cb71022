"""Use cases, histories and a brute force for the tests of the kernel. Nothing here is fast, all of it is plain."""

from __future__ import annotations

import math
import random
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from riskflow import evaluate
from riskflow.columns import Columns, Text, take
from riskflow.declare import (
    Count,
    Distinct,
    Entity,
    Feed,
    Last,
    Max,
    Mean,
    Min,
    Std,
    Sum,
    TimeSinceLast,
    Windows,
    mark,
)
from riskflow.durations import duration_ms
from riskflow.plan import Plan
from riskflow.usecase import UseCase, from_modules

START = 1_750_000_000_000
DAY = 86_400_000
MISSING = Text.MISSING

card = Entity("card")
shop = Entity("shop", optional=True)
payments = Feed(
    "payments",
    id="payment_id",
    at="paid_at",
    fields={"amount": float | None, "channel": Literal["chip", "online"] | None, "note": str | None},
)
reports = Feed("reports", id="report_id", at="known_at", fields={"is_fraud": bool})


def usecase(*functions: Callable[..., Any], **named: Any) -> UseCase:
    """A use case with the given declarations; functions stand under their own names."""
    module = types.ModuleType(functions[0].__module__ if functions else __name__)
    vars(module).update({f.__name__: f for f in functions}, **named)
    return from_modules("tried", Path("tried"), [module])


def plan_of(*functions: Callable[..., Any], **named: Any) -> Plan:
    """A plan with payments by card and shop, and what else is given."""
    base: dict[str, Any] = {"payments": payments, "reports": reports, "card": card, "shop": shop}
    return Plan.of(usecase(*functions, **{**base, **named}))


ALL_OF_A_NUMBER = [Count(), Sum(), Mean(), Std(), Min(), Max(), Last(), TimeSinceLast(), Distinct()]


def all_windows() -> Plan:
    """Every aggregate over every tile size, two feeds, text and categories too."""
    return plan_of(
        paid=Windows(by=card, over=["1m", "95s", "11m", "25h", "90d"], amount=ALL_OF_A_NUMBER, channel=[Distinct()]),
        counted=Windows(by=card, over=["10m", "12h", "7d", "8d"], events=[Count()], note=[Distinct()]),
        shops=Windows(by=card, over=["12h", "30d"], shop=[Distinct()]),
        reported=Windows(by=card, over=["1h", "30d"], on=reports, is_fraud=[Count(), Mean(), Last()]),
        at_shop=Windows(by=shop, over=["95s", "11m"], amount=[Sum(), Max()], events=[TimeSinceLast()]),
        said=Windows(by=shop, over=["90d"], on=reports, is_fraud=[Sum()]),
    )


@mark(by=card)
def high(amount: float, usual_amount_mean_30d: float) -> bool:
    return amount > 2.0 * usual_amount_mean_30d


@mark(by=card)
def climb(amount: float, high: float, remembered_high_count_7d: float) -> float:
    return amount * (1.0 + remembered_high_count_7d) if high else math.nan


def half(amount: Any) -> Any:
    return amount / 2.0


def spread(usual_amount_max_7d: Any, usual_amount_mean_30d: Any) -> Any:
    return usual_amount_max_7d - usual_amount_mean_30d


def with_marks() -> Plan:
    """Marks that listen to windows, windows over marks, calculations that a later entity observes."""
    return plan_of(
        half,
        spread,
        usual=Windows(by=card, over=["7d", "30d"], amount=[Mean(), Max()], half=[Sum()]),
        high=high,
        climb=climb,
        remembered=Windows(by=card, over=["1d", "7d"], high=[Count()], climb=[Last(), Distinct(), Std()]),
        at_shop=Windows(by=shop, over=["1d", "60d"], spread=[Mean(), Min()], high=[Sum()]),
    )


# ---- histories -------------------------------------------------------------------------------------------------------


def history(seed: int, n: int, days: float = 40.0, cards: int = 7, shops: int = 4) -> Columns:
    """Payments and reports in the order of arrival: 5 % late, some far too late; 1 % duplicates; holes everywhere."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i, at in enumerate(sorted(rng.uniform(0, days) ** 2 / days for _ in range(n))):
        late = rng.choice([0.001, 0.1, 3.0, 95.0]) if rng.random() < 0.05 else 0.0
        rows.append(_row(rng, i, START + int((at - late) * 86_400_000), cards, shops))
        if rng.random() < 0.01:
            rows.append(dict(rng.choice(rows[-20:])))
    return columns_of(rows)


def _row(rng: random.Random, i: int, at_ms: int, cards: int, shops: int) -> dict[str, Any]:
    row = {
        "_id": b"%d" % i,
        "at_ms": at_ms,
        "card": b"c%d" % rng.randrange(cards),
        "shop": b"s%d" % rng.randrange(shops),
    }
    if rng.random() < 0.1:
        row["shop"] = MISSING
    if rng.random() < 0.2:
        return {**row, "_kind": 1, "is_fraud": float(rng.random() < 0.5)}
    note = MISSING if rng.random() < 0.3 else b"n%d" % rng.randrange(40)
    amount = math.nan if rng.random() < 0.1 else rng.choice([0.0, -1.5, 1e9, round(rng.expovariate(0.02), 2)])
    return {**row, "_kind": 0, "amount": amount, "channel": rng.randrange(-1, 2), "note": note}


def columns_of(rows: Iterable[dict[str, Any]]) -> Columns:
    """Rows as the columns that travel."""
    rows = list(rows)
    column = lambda name, default, kind: np.array([r.get(name, default) for r in rows], kind)  # noqa: E731
    text = lambda name: Text.of([r.get(name, MISSING) for r in rows])  # noqa: E731
    return {
        "_kind": column("_kind", 0, np.int8), "_id": text("_id"), "at_ms": column("at_ms", START, np.int64),
        "card": text("card"), "shop": text("shop"), "amount": column("amount", math.nan, float),
        "channel": column("channel", -1, np.int32), "note": text("note"),
        "is_fraud": column("is_fraud", math.nan, float),
    }  # fmt: skip


# ---- the path that stream and batch take -----------------------------------------------------------------------------


class Folded:
    """A plan's records, folded block after block; `out` are the rows that went through."""

    def __init__(
        self,
        plan: Plan,
        records: list[dict[bytes, bytes]] | None = None,
        watermarks: list[dict[int, int]] | None = None,
    ) -> None:
        self.plan = plan
        self.records: list[dict[bytes, bytes]] = records or [{} for _ in plan.stages]
        self.watermarks: list[dict[int, int]] = watermarks or [{0: 0} for _ in plan.stages]
        self.failures = evaluate.Failures()
        self.late = self.duplicates = self.conflicts = 0

    def block(self, columns: Columns) -> Columns:
        columns = dict(columns)
        evaluate.start(self.plan, columns, self.failures)
        for stage, records, watermarks in zip(self.plan.stages, self.records, self.watermarks, strict=True):
            entities, slots = evaluate.entities_of(stage, columns)
            known = [records.get(e) for e in entities]
            out = evaluate.observe(self.plan, stage, columns, slots, known, watermarks, self.failures)
            records.update(zip(entities, out.records, strict=True))
            watermarks.update(out.watermarks)
            self.late += out.late
            self.duplicates += out.duplicates
            self.conflicts += len(out.conflicts)
            columns = out.columns
        return columns

    def blocks(self, columns: Columns, sizes: Iterable[int]) -> list[Columns]:
        out, at, n = [], 0, len(columns["at_ms"])
        for size in sizes:
            if at < n:
                out.append(self.block(take(columns, np.arange(at, min(n, at + size)))))
            at += size
        assert at >= n, "the sizes do not cover the rows"
        return out


# ---- brute force -----------------------------------------------------------------------------------------------------


def brute_force(plan: Plan, stage_index: int, columns: Columns) -> tuple[list[dict[str, float]], int]:
    """Window features of every row at a stage without marks, by lists of all that arrived; and how much was late."""
    stage, lives = plan.stages[stage_index], Lives(plan, stage_index)
    lists: dict[Any, list[tuple[int, int, dict[str, Any]]]] = {}
    features, late = [], 0
    lengths = ring_lengths(plan, stage_index)
    for row in _rows(columns):
        entity, t, feed = row[stage.entity.field], row["at_ms"], plan.usecase.feeds[row["_kind"]].name
        found = {}
        if entity != MISSING and lives.ended(row):
            for ring_feed, s in lengths:
                lists.pop((entity, ring_feed, s), None)
        for read in stage.reads:
            s = tile_ms(read.window_ms)
            there = lists.get((entity, read.feed, s), [])
            inside = [(at, r) for tile, at, r in there if (t - read.window_ms) // s <= tile <= t // s]
            found[read.name] = brute_result(type(read.aggregate).__name__, read.field, inside, t, plan)
        features.append(found if row["_kind"] == 0 and entity != MISSING else dict.fromkeys(found, math.nan))
        if entity == MISSING:
            continue
        lives.touch(row)
        for (ring_feed, s), length in lengths.items():
            if ring_feed == feed:
                there = lists.setdefault((entity, feed, s), [])
                newest = max([tile for tile, _, _ in there], default=t // s)
                late += t // s <= newest - length
                there.append((t // s, t, row))
                there[:] = [x for x in there if x[0] > max(newest, t // s) - length]
    return features, late


def ring_lengths(plan: Plan, stage_index: int) -> dict[tuple[str, int], int]:
    """(feed, tile size) -> how many tiles are kept."""
    lengths: dict[tuple[str, int], int] = {}
    for read in plan.stages[stage_index].reads:
        ring = (read.feed, tile_ms(read.window_ms))
        lengths[ring] = max(lengths.get(ring, 0), math.ceil(read.window_ms / ring[1]) + 1)
    return lengths


class Lives:
    """Who is dead at a stage: by the newest day that each partition has seen, now and at an entity's last row."""

    def __init__(self, plan: Plan, stage_index: int) -> None:
        self.entity = plan.stages[stage_index].entity.field
        longest_ms = max(length * s for (_, s), length in ring_lengths(plan, stage_index).items())
        self.days = math.ceil(longest_ms / DAY) + 30
        self.watermark: dict[int, int] = {}
        self.touched: dict[bytes, int] = {}

    def ended(self, row: dict[str, Any]) -> bool:
        now = self.watermark.get(row.get(f"_part_{self.entity}", 0), 0)
        return now - self.touched.get(row[self.entity], 0) > self.days

    def touch(self, row: dict[str, Any]) -> None:
        part = row.get(f"_part_{self.entity}", 0)
        self.watermark[part] = max(self.watermark.get(part, 0), row["at_ms"] // DAY)
        self.touched[row[self.entity]] = self.watermark[part]


def kept_rows(plan: Plan, columns: Columns) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows that are no copy of one of the last 32 of their entity's life; content is taken to be equal."""
    lives, kept = Lives(plan, 0), []
    last: dict[bytes, list[tuple[int, bytes]]] = {}
    for i, row in enumerate(_rows(columns)):
        entity, name = row[lives.entity], (row["_kind"], row["_id"])
        if lives.ended(row):
            last.pop(entity, None)
        known = last.setdefault(entity, [])
        if name not in known[-32:]:
            known.append(name)
            lives.touch(row)
            kept.append(i)
    return np.array(kept, np.int64)


def tile_ms(window_ms: int) -> int:
    table = {"10m": 10_000, "12h": 300_000, "7d": 3_600_000, "90d": 86_400_000}
    return next(s for longest, s in table.items() if window_ms <= duration_ms(longest))


def _rows(columns: Columns) -> list[dict[str, Any]]:
    lists = {name: c.values() if isinstance(c, Text) else c.tolist() for name, c in columns.items()}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def brute_result(aggregate: str, name: str, rows: list[tuple[int, dict[str, Any]]], t: int, plan: Plan) -> float:
    """One aggregate over (event time, row) in the order of arrival."""
    known = [(at, 1.0 if name == "events" else r[name]) for at, r in rows]
    known = [(at, v) for at, v in known if v == v and v != MISSING and not (name == "channel" and v < 0)]
    values = [v for _, v in known]
    if aggregate == "Count":
        flag = name in plan.fields and plan.fields[name].kind == "flag"
        return float(sum(values)) if flag else float(len(values))
    if aggregate == "Sum":
        return math.fsum(values)
    if aggregate == "Distinct":
        bits = len({_bit(v) for v in values})
        return 256 * math.log(256 / max(256 - bits, 1))
    if aggregate == "Std":
        mean = math.fsum(values) / max(len(values), 1)
        squares = math.fsum((v - mean) ** 2 for v in values)
        return math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan
    if not values:
        return math.nan
    newest_at = max(at for at, _ in known)
    return {
        "Mean": math.fsum(values) / len(values), "Min": min(values), "Max": max(values),
        "Last": [v for at, v in known if at == newest_at][-1], "TimeSinceLast": (t - newest_at) / 1000,
    }[aggregate]  # fmt: skip


def _bit(value: Any) -> int:
    if isinstance(value, bytes):
        value = float(int(Text.of([value]).hashes()[0]) & (2**52 - 1))
    bits = int(np.array([float(value) + 0.0]).view(np.uint64)[0])
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        bits = (bits ^ bits >> 33) * factor % 2**64
    return (bits ^ bits >> 33) & 255
