"""Tables of events and labels as the columns that replay folds, in the order in which they became known.

A table stands for one feed. Its columns carry the feed's own names; a time may be called `occurred_at_ms` or
`occurred_at`. What a table does not have is missing in every row, as it would be in a message.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from riskflow.columns import Columns, Text, concat, take
from riskflow.declare import CATEGORY, TEXT, Entity, Feed, FieldType
from riskflow.errors import DeclarationError
from riskflow.evaluate import ID, KIND, TIME, empty_field
from riskflow.events import AHEAD_MS, EARLIEST_MS, LATEST_MS
from riskflow.plan import Plan

HASH_CHARS = 32  # as riskflow.events writes a hashed id


def history_columns(plan: Plan, tables: Mapping[str, pl.DataFrame | None], hash_key: bytes = b"") -> Columns:
    """Rows of all feeds, ordered as `batch.replay.known_order` orders them: time, feeds before events, id.

    tables: feed name -> rows. hash_key: needed where an entity is hashed (riskflow.hashkey).
    """
    feeds = {feed.name: feed for feed in plan.usecase.feeds}
    unknown = set(tables) - set(feeds)
    if unknown:
        raise DeclarationError(f"history of {plan.name}", f"has the feeds {sorted(unknown)}", f"Known: {sorted(feeds)}")
    there = {name: table for name, table in tables.items() if table is not None}
    order = _known_order(plan, {name: _keys(feeds[name], table) for name, table in there.items()})
    blocks = [_feed_columns(plan, feeds[name], table, hash_key) for name, table in there.items()]
    return {name: _ordered(column, order) for name, column in concat(blocks).items()}


def known_by(plan: Plan, columns: Columns, now_ms: int) -> Columns:
    """Those of the rows that are known by now, within the times that intake takes.

    One row far ahead would end everybody else's life (docs/decisions/0020). A label may be dated ahead: it is not known
    yet. Raises DeclarationError for a scored event there, and for times that are seconds or microseconds.
    """
    times: Any = columns[TIME]
    kinds: Any = columns[KIND]
    ahead = times > now_ms + AHEAD_MS
    _refuse_times(plan, columns, (times < EARLIEST_MS) | (times > LATEST_MS), "lie before 1973 or after 9999")
    _refuse_times(plan, columns, ahead & (kinds == plan.kind(plan.scored.name)), "lie in the future")
    return take(columns, np.flatnonzero(~ahead)) if ahead.any() else columns


def _refuse_times(plan: Plan, columns: Columns, wrong: NDArray[np.bool_], where: str) -> None:
    """Raises DeclarationError for rows with a time that cannot be."""
    if not wrong.any():
        return
    kind, name, at_ms = (_first(columns[column], wrong) for column in (KIND, ID, TIME))
    raise DeclarationError(
        f"history, feed {plan.usecase.feeds[kind].name!r}",
        f"has {int(wrong.sum())} rows that {where}, such as {name} at {np.datetime64(at_ms, 'ms')}Z",
        "Correct their times (milliseconds since 1970, UTC), or leave these rows out",
    )


def _first(column: Any, chosen: NDArray[np.bool_]) -> Any:
    row = int(chosen.argmax())
    return column.take(np.array([row])).strings()[0] if isinstance(column, Text) else int(column[row])


def _ordered(column: Any, order: NDArray[np.int64]) -> Any:
    return column.take(order) if isinstance(column, Text) else column[order]


def _known_order(plan: Plan, keys: Mapping[str, pl.DataFrame]) -> NDArray[np.int64]:
    """Row numbers of the tables laid one after another, sorted; polars is ten times as fast as a sort of objects."""
    marked = [key.with_columns(feed=pl.lit(-plan.kind(name), pl.Int8)) for name, key in keys.items()]
    numbered = pl.concat(marked).with_row_index("row")
    return numbered.sort("at_ms", "feed", "id", maintain_order=True)["row"].to_numpy().astype(np.int64)


def _keys(feed: Feed, table: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"at_ms": _time(feed, table), "id": _series(feed, table, feed.id).cast(pl.String)})


def _feed_columns(plan: Plan, feed: Feed, table: pl.DataFrame, hash_key: bytes) -> Columns:
    n = len(table)
    out: Columns = {
        KIND: np.full(n, plan.kind(feed.name), np.int8),
        ID: text_column(_series(feed, table, feed.id)),
        TIME: _time(feed, table).to_numpy().astype(np.int64),
    }
    for entity in plan.usecase.entities:
        out[entity.field] = _entity_column(feed, entity, table, hash_key)
    for name, kind in plan.fields.items():
        given = name in feed.types and name in table.columns
        out[name] = _field_column(kind, table[name]) if given else empty_field(kind.kind, n)
    return out


def _time(feed: Feed, table: pl.DataFrame) -> pl.Series:
    own = f"{feed.at}_ms" if f"{feed.at}_ms" in table.columns else feed.at
    return _series(feed, table, own).cast(pl.Int64)


def _series(feed: Feed, table: pl.DataFrame, name: str) -> pl.Series:
    if name not in table.columns:
        raise DeclarationError(
            f"history, feed {feed.name!r}",
            f"has no column {name!r}, only {table.columns}",
            "Name it, for example by --columns",
        )
    return table[name]


def _entity_column(feed: Feed, entity: Entity, table: pl.DataFrame, hash_key: bytes) -> Text:
    if entity.field not in table.columns and (entity.optional or feed.about):
        return Text.of([Text.MISSING] * len(table))
    ids = _series(feed, table, entity.field).cast(pl.String)
    if not entity.optional and ids.null_count():
        row = int(ids.is_null().arg_max() or 0) + 1
        raise DeclarationError(
            f"history, feed {feed.name!r}, row {row}",
            f"has no {entity.field}",
            "Fill it, or declare the entity optional=True",
        )
    return text_column(_hashed(ids, hash_key) if entity.hashed else ids)


def _hashed(ids: pl.Series, hash_key: bytes) -> pl.Series:
    """The keyed hash that riskflow.events makes, worked out once for each id."""
    known = ids.unique().drop_nulls()
    hashes = [hmac.new(hash_key, v.encode(), hashlib.sha256).hexdigest()[:HASH_CHARS] for v in known]
    return ids.replace_strict(known, pl.Series(hashes, dtype=pl.String), default=None)


def _field_column(kind: FieldType, values: pl.Series) -> Any:
    if kind.kind == TEXT:
        return text_column(values)
    if kind.kind == CATEGORY:
        codes = pl.Series(range(len(kind.values)), dtype=pl.Int32)
        known = pl.Series(kind.values, dtype=pl.String)
        return values.cast(pl.String).replace_strict(known, codes, default=-1, return_dtype=pl.Int32).to_numpy()
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def text_column(values: pl.Series) -> Text:
    """Strings (or whole numbers) as Text without a Python object for each; null is missing."""
    text = values.cast(pl.String)
    missing = text.is_null().to_numpy()
    text = text.fill_null("?")
    offsets = np.zeros(len(text) + 1, np.int64)
    np.cumsum(text.str.len_bytes().to_numpy(), out=offsets[1:])
    joined = text.str.join("").item() if len(text) else ""
    data = np.frombuffer(joined.encode(), np.uint8)
    if not missing.any():
        return Text(data, offsets)
    data = data.copy()
    data[offsets[:-1][missing]] = Text.MISSING[0]
    return Text(data, offsets)
