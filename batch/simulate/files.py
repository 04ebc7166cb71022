"""The folder in which a history lies: events.parquet, labels.parquet, truth.parquet, manifest.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl

from batch.files import whole, write_text

TABLES = ("events", "labels", "truth")
MANIFEST = "manifest.json"


def write(folder: Path, about: dict[str, object], **tables: pl.DataFrame | None) -> dict[str, object]:
    """Write the tables that are given, remove those that an earlier history left, and return the manifest.

    The manifest is written last: where it lies, the tables beside it are whole. `about` says how they were made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    parts = {name: _write(folder, name, tables.get(name)) for name in TABLES}
    manifest = {**about, "tables": {name: part for name, part in parts.items() if part}}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def made_by(folder: Path) -> str | None:
    """Whose tables lie in the folder, in words; None when it holds none."""
    if not any((folder / f"{name}.parquet").exists() for name in TABLES):
        return None
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["made_by"])
    except (OSError, ValueError, KeyError, TypeError):
        return "somebody else"


def _write(folder: Path, name: str, table: pl.DataFrame | None) -> dict[str, object] | None:
    path = folder / f"{name}.parquet"
    if table is None:
        path.unlink(missing_ok=True)
        return None
    with whole(path) as beside:
        table.write_parquet(beside, compression="zstd")
    return {"rows": len(table), "sha256": _digest(path), **_times(table)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _times(table: pl.DataFrame) -> dict[str, int]:
    """First and last time of the rows, if they have one."""
    time = next((name for name in ("occurred_at_ms", "labelled_at_ms") if name in table.columns), None)
    if time is None or table.is_empty():
        return {}
    return {"first_ms": table[time].min(), "last_ms": table[time].max()}
