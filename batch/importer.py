"""Somebody else's history, in Parquet or CSV, as the tables that every batch function reads, both in order of time.

    events   event_id, occurred_at_ms, then the other fields
    labels   label_id, event_id, is_fraud, labelled_at_ms, source, customer_id, terminal_id, amount

What cannot be read is refused with column, row and the fix. Rows count from 1, a heading is not a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from batch.simulate.labels import label_id
from riskflow.errors import DeclarationError
from riskflow.names import checked

EVENT_FIELDS = ("event_id", "occurred_at", "customer_id", "terminal_id", "amount")
OPTIONAL_FIELDS = ("channel", "is_fraud")
READ_HERE = {*EVENT_FIELDS, *OPTIONAL_FIELDS, "known_at"}  # fields whose text this file reads itself
LABEL_FIELDS = ("event_id", "is_fraud", "known_at")
OWN_NAMES = {"occurred_at": ("occurred_at_ms",), "known_at": ("labelled_at_ms", "labelled_at")}
LABEL_ONLY = ("is_fraud", "known_at")
SOURCE = "import"
LONGEST_ID = 128

# Epoch milliseconds lie between 1973 and 5138; a smaller number is seconds, a larger one micro- or nanoseconds.
LEAST_MS, MOST_MS = 10**11, 10**14

_TIME_HELP = "Use RFC 3339 (2026-01-31T12:00:00Z), a datetime column (without a zone it is UTC) or epoch milliseconds"
_TRUE, _FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")


# the map of columns


def column_map(text: str) -> dict[str, str]:
    """`event_id=TRANSACTION_ID,occurred_at=TX_DATETIME` as {field: column}; raises DeclarationError."""
    columns: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        field, equals, column = (word.strip() for word in part.partition("="))
        if not equals or not column:
            raise DeclarationError(f"--columns {part!r}", "is not field=COLUMN", "Write event_id=ID,occurred_at=TIME")
        if field in columns:
            raise DeclarationError(f"--columns {field}", "is there twice", "Give each field one column")
        columns[checked(field, "field")] = column
    return columns


def choose(
    table: pl.DataFrame, columns: dict[str, str], need: Iterable[str], may: Iterable[str] = ()
) -> dict[str, pl.Series]:
    """The column of each field, still under the file's name; a field without a map has its own name there."""
    own = {field: _own_name(field, table) for field in (*need, *may)}
    present = {field: name for field, name in own.items() if field in need or name in table.columns}
    wanted = {**present, **columns}
    for field, column in wanted.items():
        if column not in table.columns:
            has = ", ".join(table.columns) or "no columns"
            raise DeclarationError(f"field {field}", f"there is no column {column!r}, only {has}", _map_help(field))
    return {field: table[column] for field, column in wanted.items()}


def _own_name(field: str, table: pl.DataFrame) -> str:
    """What a field is called without a map; in our own tables the names of times carry their unit."""
    return next((name for name in OWN_NAMES.get(field, ()) if name in table.columns), field)


def _map_help(field: str) -> str:
    return f"Name it: --columns {field}=COLUMN"


# files


def read_table(path: Path, names: Iterable[str] = ()) -> pl.DataFrame:
    """A Parquet or CSV file. In CSV the columns in `names` and all `..._id` stay text, so `007` is not 7."""
    readers = {".parquet": lambda: pl.read_parquet(path), ".csv": lambda: _read_csv(path, set(names))}
    if path.suffix.lower() not in readers:
        raise DeclarationError(str(path), f"ends in {path.suffix!r}", "Give a file that ends in .parquet or .csv")
    if not path.is_file():
        raise DeclarationError(str(path), "there is no such file", "Check the path")
    try:
        return readers[path.suffix.lower()]()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DeclarationError(str(path), f"cannot be read: {error}", "Check that it is what its name says") from error


def _read_csv(path: Path, names: set[str]) -> pl.DataFrame:
    heading = pl.scan_csv(path, infer_schema=False).collect_schema().names()
    text = {name: pl.String for name in heading if name in names or name.endswith("_id")}
    return pl.read_csv(path, schema_overrides=text, infer_schema_length=None)


def _as_text(columns: dict[str, str]) -> set[str]:
    """Columns of a CSV whose types must not be guessed."""
    return READ_HERE | {column for field, column in columns.items() if field in READ_HERE or field.endswith("_id")}


def read_events(path: Path, columns: dict[str, str]) -> pl.DataFrame:
    """The events of a file, checked, in order of time, with `is_fraud` where the file has it."""
    return events(read_table(path, _as_text(columns)), columns)


def history(
    path: Path, columns: dict[str, str], delay_ms: int, labels: Path | None = None
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Events and labels of a file. Labels come from the file `labels`, else from a column `is_fraud`; else None."""
    of_events = {field: column for field, column in columns.items() if labels is None or field not in LABEL_ONLY}
    found = read_events(path, of_events)
    if labels is not None:
        known = read_labels(labels, columns, found)
    else:
        known = labels_of(found, delay_ms) if "is_fraud" in found.columns else None
    return found.drop("is_fraud", strict=False), known


def read_labels(path: Path, columns: dict[str, str], events: pl.DataFrame) -> pl.DataFrame:
    """The labels of a file with event_id, is_fraud and known_at. Entity ids and amount come from `events`.

    `columns` may name the columns of both files: a name that this file does not have is meant for the other one.
    """
    table = read_table(path, _as_text(columns))
    mine = {field: columns[field] for field in LABEL_FIELDS if columns.get(field) in table.columns}
    found = choose(table, mine, LABEL_FIELDS)
    known = pl.DataFrame(
        {
            "event_id": ids(found["event_id"]),
            "is_fraud": flags(found["is_fraud"]),
            "labelled_at_ms": at_ms(found["known_at"]),
        }
    )
    return _labels(known.drop_nulls(), events)


# tables


def events(table: pl.DataFrame, columns: dict[str, str]) -> pl.DataFrame:
    """Rows of any table as events; raises DeclarationError for the first row that cannot be one."""
    found = choose(table, columns, EVENT_FIELDS, OPTIONAL_FIELDS)
    result = pl.DataFrame([_field(field, column) for field, column in found.items()])
    twice = result["event_id"].is_duplicated()
    _refuse(found["event_id"], twice, "is there more than once", "Keep one row of each event")
    result = result.sort("occurred_at_ms", maintain_order=True)
    return result if "channel" in result.columns else result.with_columns(channel=pl.lit(None, pl.String))


def labels_of(events: pl.DataFrame, delay_ms: int) -> pl.DataFrame:
    """Labels from the column `is_fraud`, both classes known `delay_ms` after the event; where it is null, none."""
    known = events.select("event_id", "is_fraud", labelled_at_ms=pl.col("occurred_at_ms") + delay_ms)
    return _labels(known.drop_nulls("is_fraud"), events)


def _labels(known: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    about = events.select("event_id", "customer_id", "terminal_id", "amount")
    joined = known.with_columns(source=pl.lit(SOURCE)).join(about, on="event_id", how="left", maintain_order="left")
    return joined.sort("labelled_at_ms", maintain_order=True).select(label_id(), *joined.columns)


def _field(field: str, column: pl.Series) -> pl.Series:
    """One field of an event, read as its name asks for; a field that is not known here stays as it is."""
    readers = {
        "occurred_at": at_ms,
        "amount": amounts,
        "is_fraud": flags,
        "channel": lambda words: words.cast(pl.String),
    }
    read = readers.get(field, ids if field.endswith("_id") else lambda same: same)
    return read(column).alias("occurred_at_ms" if field == "occurred_at" else field)


# columns


def at_ms(column: pl.Series) -> pl.Series:
    """Times as UTC epoch milliseconds: datetimes (naive = UTC), dates (midnight), text, whole numbers."""
    _refuse(column, column.is_null(), "is empty", _TIME_HELP)
    if column.dtype.is_temporal() and column.dtype != pl.Time and column.dtype != pl.Duration:
        return column.cast(pl.Datetime("ms")).dt.epoch("ms") if column.dtype == pl.Date else column.dt.epoch("ms")
    if column.dtype.is_integer():
        return _checked_ms(column.cast(pl.Int64))
    if column.dtype == pl.String:
        return _text_ms(column)
    raise DeclarationError(f"column {column.name}", f"has type {column.dtype}, which is not a time", _TIME_HELP)


def _checked_ms(column: pl.Series) -> pl.Series:
    _refuse(column, column < LEAST_MS, "is too small for milliseconds; is it seconds?", "Multiply by 1000")
    _refuse(column, column >= MOST_MS, "is too large for milliseconds; is it micro- or nanoseconds?", "Divide")
    return column


def _text_ms(column: pl.Series) -> pl.Series:
    text = column.str.strip_chars()
    numbers = text.str.contains(r"^\d+$")
    if numbers.all():
        return _checked_ms(text.cast(pl.Int64))
    times = _rfc3339(text).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="ms", time_zone="UTC", strict=False)
    _refuse(column, times.is_null(), "is not a time", _TIME_HELP)
    return times.dt.epoch("ms").alias(column.name)


def _rfc3339(text: pl.Series) -> pl.Series:
    """Spellings that databases write, in full: a space for T, no offset (UTC), `+01`, a day alone."""
    day = r"^(\d{4}-\d\d-\d\d)"
    text = text.str.replace(day + "$", "${1}T00:00:00").str.replace(day + "[ t]", "${1}T")
    text = text.str.replace("[Zz]$", "+00:00").str.replace(r"(:\d\d(?:\.\d+)?[+-]\d\d)$", "${1}:00")
    naive = ~text.str.contains(r"[+-]\d\d:?\d\d$")
    return (text + pl.select(pl.when(naive).then(pl.lit("+00:00")).otherwise(pl.lit(""))).to_series()).alias(text.name)


def ids(column: pl.Series) -> pl.Series:
    """Ids as text; whole numbers are written without a decimal point."""
    fix = "Give each row an id, a text or a whole number"
    _refuse(column, column.is_null(), "is empty", fix)
    if column.dtype.is_float():
        _refuse(column, ~(column.is_finite() & (column.floor() == column) & (column.abs() < 2**53)), "is no id", fix)
        column = column.cast(pl.Int64)
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise DeclarationError(f"column {column.name}", f"has type {column.dtype}, which is not an id", fix)
    text = column.cast(pl.String)
    _refuse(text, text.str.len_chars() > LONGEST_ID, "is longer than 128 characters", "Shorten or hash it")
    return text


def amounts(column: pl.Series) -> pl.Series:
    """Finite numbers as float64."""
    fix = "Give a finite number with a decimal point"
    if not (column.dtype.is_numeric() or column.dtype == pl.String):
        raise DeclarationError(f"column {column.name}", f"has type {column.dtype}, which is not a number", fix)
    numbers = column.cast(pl.Float64, strict=False)
    _refuse(column, ~numbers.is_finite().fill_null(False), "is not a finite number", fix)
    return numbers


def flags(column: pl.Series) -> pl.Series:
    """True, false or null (not known) from booleans, 0 and 1, or words."""
    text = column.cast(pl.String).str.to_lowercase().str.strip_chars()
    known = text.is_in([*_TRUE, *_FALSE])
    empty = column.is_null() | (text == "")
    _refuse(column, ~(known | empty).fill_null(True), "is neither true nor false", "Use true and false, or 1 and 0")
    return (
        text.to_frame()
        .select(pl.when(pl.col(column.name) != "").then(pl.col(column.name).is_in(_TRUE)).alias(column.name))
        .to_series()
    )


def _refuse(column: pl.Series, bad: pl.Series, found: str, fix: str) -> None:
    """Raise for the first row where `bad` is true."""
    row = bad.arg_max() if len(bad) and bad.any() else None
    if row is not None:
        raise DeclarationError(f"column {column.name}, row {row + 1}", f"{column[row]!r} {found}", fix)
