"""One hash for what a table holds, whatever files it lay in.

Columns are taken by name. Numbers are eight bytes each, texts their bytes with their lengths; a column in which nothing
is known is as if it were not there, because a file that is merged with another gets its columns. The order of rows is
part of the content.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import polars as pl


def content_hash(table: pl.DataFrame) -> str:
    """sha256 of a table's rows in their order."""
    digest = hashlib.sha256(f"{len(table)}\n".encode())
    for name in sorted(table.columns):
        column = table[name]
        if column.null_count() < len(column):
            kind, parts = _encoded(column)
            digest.update(f"{name}\0{kind}\0{column.null_count()}\n".encode())
            if column.null_count():
                digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
            for part in parts:
                digest.update(part)
    return digest.hexdigest()


def _encoded(column: pl.Series) -> tuple[str, list[Any]]:
    dtype = column.dtype
    if dtype.is_float():
        return "number", [_bytes(column.fill_null(0.0).cast(pl.Float64), np.float64)]
    if dtype.is_integer() or dtype == pl.Boolean:
        return "whole", [_bytes(column.fill_null(False if dtype == pl.Boolean else 0).cast(pl.Int64), np.int64)]
    if dtype == pl.String:
        filled = column.fill_null("")
        return "text", [_bytes(filled.str.len_bytes().cast(pl.Int64), np.int64), filled.str.join("").item().encode()]
    if dtype == pl.Binary:
        values = column.fill_null(b"").to_list()
        return "bytes", [np.array([len(v) for v in values], np.int64).tobytes(), b"".join(values)]
    text = repr(column.to_list()).encode()
    return str(dtype), [text]


def _bytes(column: pl.Series, kind: Any) -> bytes:
    return np.ascontiguousarray(column.to_numpy(), kind).tobytes()
