"""THE evaluation path: observe() folds rows into records, calculate() works out columns. All who evaluate call these.

Columns of rows on their way (names with an underscore are ours, so no field can clash):

    _kind int8      number of the feed; 0 is scored          _id Text        id of the event or label
    at_ms int64     event time                               _degraded Text  failed calculations, comma-separated
    <entity> Text   ids                                      <field>, <feature>
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from riskflow import windows as kernel
from riskflow.columns import Columns, Text, combined_hash, n_rows, take
from riskflow.declare import CATEGORY, TEXT
from riskflow.errors import DeclarationError
from riskflow.hashing import add_named, add_named_numbers
from riskflow.plan import DISTINCT_OF, Plan, Stage
from riskflow.state import log_columns

KIND, ID, TIME, DEGRADED = "_kind", "_id", "at_ms", "_degraded"


@dataclass
class Failures:
    """What a use case's own code raised: counted under the function's name, with one example each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, rows: int, error: Exception) -> None:
        self.counts[name] = self.counts.get(name, 0) + rows
        self.examples[name] = f"{type(error).__name__}: {error}"

    def include(self, others: Failures) -> None:
        """Counts what others have counted as well."""
        for name, rows in others.counts.items():
            self.counts[name] = self.counts.get(name, 0) + rows
            self.examples[name] = others.examples[name]

    def summary(self) -> dict[str, str]:
        """Function -> in how many rows it raised, and what; as JSON values."""
        return {name: f"raised in {rows} rows, such as {self.examples[name]}" for name, rows in self.counts.items()}


@dataclass
class Observation:
    """One stage's answer: the rows that go on (with features), those refused, each entity's new record, and the
    watermarks after them."""

    columns: Columns
    kept: NDArray[np.int64]  # rows of the input that go on
    conflicts: NDArray[np.int64]  # rows whose id was seen with other content
    duplicates: int
    late: int
    records: list[bytes]
    watermarks: dict[int, int]


def entities_of(stage: Stage, columns: Columns) -> tuple[list[bytes], NDArray[np.int64]]:
    """The distinct entities of these rows in order of appearance, and each row's number among them (-1: has none)."""
    ids = columns[stage.entity.field]
    assert isinstance(ids, Text)
    first_rows, numbers = ids.numbered()
    return ids.take(first_rows).values(), numbers


def partitions_of(stage: Stage, columns: Columns) -> NDArray[np.int64]:
    """The partition of the stage's log that each row came in; rows without positions are of one."""
    part: Any = columns.get(log_columns(stage.entity.field)[1])
    return np.zeros(n_rows(columns), np.int64) if part is None else part


def observe(
    plan: Plan,
    stage: Stage,
    columns: Columns,
    slots: NDArray[np.int64],
    records: Sequence[bytes | None],
    watermarks: Mapping[int, int],
    failures: Failures,
) -> Observation:
    """Folds rows, in order, into the records of their entities, and calculates what has become known.

    columns: what has travelled so far. slots: from entities_of. records: packed, None where never seen. watermarks: the
    newest day, by partition (partitions_of), that rows before these have shown; 0 before there was any.
    """
    n = n_rows(columns)
    there = np.flatnonzero(slots >= 0)
    rows = columns if len(there) == n else take(columns, there)
    partitions, part = np.unique(partitions_of(stage, rows), return_inverse=True)
    days = np.array([watermarks[p] for p in partitions.tolist()], np.int64)
    kernel_input = kernel_rows(plan, stage, rows, slots[there], part, days)
    try:
        out, new_records = kernel.observe(stage.loop, stage.layout, len(stage.reads), kernel_input, records)
    except NumbaError as error:
        raise _not_compiled(stage, error) from error
    verdicts = np.zeros(n, np.int8)
    verdicts[there] = out.verdicts
    result = dict(columns)
    for names, values in (
        (_read_names(stage), out.reads),
        (stage.marks, out.observed[len(stage.observed) - len(stage.marks) :]),
    ):
        for name, row in zip(names, values, strict=True):
            result[name] = row if len(there) == n else _scatter(row, there, n)
    kept = np.flatnonzero(verdicts == kernel.NEW)
    if len(kept) < n:
        result = take(result, kept)
    calculate(plan, stage.calculations, result, failures)
    return Observation(
        result,
        kept,
        np.flatnonzero(verdicts == kernel.CONFLICT),
        int((verdicts == kernel.DUPLICATE).sum()),
        out.late,
        new_records,
        dict(zip(partitions.tolist(), out.watermarks.tolist(), strict=True)),
    )


def calculate(plan: Plan, names: Sequence[str], columns: Columns, failures: Failures) -> None:
    """Adds the named calculations to columns. One that raises is done row by row; failing rows are NaN and degraded."""
    n = n_rows(columns)
    if DEGRADED not in columns:
        columns[DEGRADED] = Text.of([b""] * n)
    with np.errstate(all="ignore"):
        for name in names:
            function = plan.usecase.calculations[name]
            inputs = [_read_only(columns[i]) for i in plan.nodes[name].inputs]
            try:
                columns[name] = _checked(function(*inputs), n)
            except Exception:
                columns[name] = _one_by_one(name, function, inputs, columns, failures)


def start(plan: Plan, columns: Columns, failures: Failures) -> None:
    """Adds what can be calculated from the declared fields alone; the first stage's windows may observe it."""
    calculate(plan, plan.first_calculations, columns, failures)


def _not_compiled(stage: Stage, error: NumbaError) -> DeclarationError:
    reason = next((line for line in str(error).splitlines() if line.strip() and "pipeline" not in line), str(error))
    return DeclarationError(
        f"marks {', '.join(stage.marks)}",
        f"do not compile: {reason}",
        "Use numbers, comparisons, math and numpy scalars",
    )


def _read_only(column: Any) -> Any:
    """A calculation that writes into its input fails in batch as it does in the stream, where blocks are read-only."""
    view = column.view()
    view.flags.writeable = False
    return view


def _checked(values: Any, n: int) -> NDArray[np.float64]:
    """A result as it travels. Not known is one NaN: the bits of others depend on how numpy cut the column."""
    out = np.asarray(values, np.float64)
    if out.shape != (n,):
        raise ValueError(f"returned shape {out.shape} for {n} rows")
    unknown = np.isnan(out)
    return np.where(unknown, np.nan, out) if unknown.any() else out


def _one_by_one(
    name: str, function: Callable[..., Any], inputs: list[Any], columns: Columns, failures: Failures
) -> NDArray[np.float64]:
    n = n_rows(columns)
    out, failed = np.full(n, np.nan), []
    for i in range(n):
        try:
            out[i] = _checked(function(*(c[i : i + 1] for c in inputs)), 1)[0]
        except Exception as error:
            failed.append(i)
            failures.add(name, 1, error)
    columns[DEGRADED] = _also(columns[DEGRADED], failed, name.encode())
    return out


def _also(degraded: Any, rows: list[int], name: bytes) -> Text:
    values = degraded.values()
    for i in rows:
        values[i] = values[i] + b"," + name if values[i] else name
    return Text.of(values)


def _read_names(stage: Stage) -> list[str]:
    return [r.name for r in stage.reads]


def _scatter(values: NDArray[np.float64], rows: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    out = np.full(n, np.nan)
    out[rows] = values
    return out


def kernel_rows(
    plan: Plan,
    stage: Stage,
    rows: Columns,
    slots: NDArray[np.int64],
    part: NDArray[np.int64],
    watermarks: NDArray[np.int64],
) -> kernel.Rows:
    kinds: Any = rows[KIND]
    times: Any = rows[TIME]
    return kernel.Rows(
        kinds_read=np.array(stage.kinds_read),
        kind=kinds.astype(np.int64),
        at_ms=times,
        slot=slots,
        observed=_observed(stage, rows),
        part=part,
        watermarks=watermarks,
        **_identity(plan, stage, rows),
    )


def _identity(plan: Plan, stage: Stage, rows: Columns) -> dict[str, NDArray[np.int64]]:
    if not stage.layout.keeps_ids:
        nothing = np.zeros(n_rows(rows), np.int64)
        return {"event": nothing, "content": nothing}
    return {"event": combined_hash([rows[KIND], rows[ID]]), "content": content_hash(plan, rows)}


def content_hash(plan: Plan, rows: Columns) -> NDArray[np.int64]:
    """What each row says: names and values of what it has, so that a field declared later changes nothing for it."""
    out = np.zeros(n_rows(rows), np.int64)
    for name in (TIME, *plan.entities, *plan.fields):
        column, hashed = rows[name], _hash_of(name.encode())
        if isinstance(column, Text):
            add_named(out, column.hashes(), hashed, _hash_of(Text.MISSING))
        elif column.dtype.kind == "f":
            numbers = np.ascontiguousarray(column, np.float64)
            add_named_numbers(out, numbers, numbers.view(np.int64), hashed)
        else:
            add_named(out, np.ascontiguousarray(column, np.int64), hashed, -1)
    return out


@cache
def _hash_of(text: bytes) -> int:
    return int(Text.of([text]).hashes()[0])


def _observed(stage: Stage, rows: Columns) -> NDArray[np.float64]:
    """One row for each observed column; those of marks are filled in by the kernel."""
    matrix = np.empty((len(stage.observed), n_rows(rows)))
    given = len(stage.observed) - len(stage.marks)
    matrix[given:] = np.nan
    for j, name in enumerate(stage.observed[:given]):
        if name == "events":
            matrix[j] = 1.0
        elif name.startswith(DISTINCT_OF):
            matrix[j] = _hashed(rows[name.removeprefix(DISTINCT_OF)])
        else:
            column: Any = rows[name]
            matrix[j] = column
    return matrix


def _hashed(column: Any) -> NDArray[np.float64]:
    """Text and categories as whole numbers that a float64 holds; NaN for what is missing."""
    if isinstance(column, Text):
        return np.where(column.missing(), np.nan, column.hashes() & (2**52 - 1))
    return np.where(column < 0, np.nan, column)


def empty_field(kind: str, n: int) -> Any:
    """A column of a declared field for rows of a feed that does not have it."""
    if kind == TEXT:
        return Text.of([Text.MISSING] * n)
    return np.full(n, -1, np.int32) if kind == CATEGORY else np.full(n, np.nan)
