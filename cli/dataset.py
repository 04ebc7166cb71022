"""`riskflow dataset show | rebuild`: what a training set was made of, and the same set again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Json

Manifest = Annotated[Path, typer.Argument(help="a manifest.json, or the folder of a run")]


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    group = typer.Typer(no_args_is_help=True, help="Versions of training sets: what they were made of.")
    group.command()(show)
    group.command()(rebuild)
    app.add_typer(group, name="dataset")


def show(manifest: Manifest, as_json: Json = False) -> None:
    """Show what a training set was made of.

    riskflow dataset show .riskflow/runs/card_fraud/scheduled__2026-03-01T03_00_00_00_00
    """
    from batch import dataset

    found = dataset.read(manifest)
    if as_json:
        print(json.dumps({**found, "hash": dataset.manifest_hash(found)}))
        return
    for name, value in _lines(found, dataset.manifest_hash(found)):
        print(f"{name:14} {value}")


def rebuild(
    manifest: Manifest,
    out: Annotated[Path | None, typer.Option(help="default: dataset-<begin of the hash>.parquet")] = None,
    as_json: Json = False,
) -> None:
    """Make a training set again, bit for bit, from what the archive still holds. Exit code 1 where it cannot be.

    riskflow dataset rebuild runs/card_fraud/first/manifest.json --out frame.parquet
    """
    from batch import dataset
    from batch.run import Run
    from cli.common import load_plan, writable
    from riskflow.settings import settings

    found = dataset.read(manifest)
    out = writable(out or Path(f"dataset-{dataset.manifest_hash(found)[:12]}.parquet"))
    data = dataset.rebuild(Run.of(load_plan(found["usecase"]), settings(), "dataset"), found)
    data.write(out)
    about = {"rows": len(data), "frauds": data.frauds, "sha256": found["frame"]["sha256"], "out": str(out)}
    print(json.dumps(about) if as_json else f"{len(data):,} rows, {data.frauds:,} frauds, the same bits: {out}")


def _lines(found: dict[str, Any], of_all: str) -> list[tuple[str, str]]:
    terms, frame = found["terms"], found["frame"]
    sources = ", ".join(terms["label_sources"]) or "all alike"
    lines = [
        ("manifest", of_all),
        ("made by", f"use case {found['usecase']}, run {found['run']}, code {found['code']}"),
        ("rows", f"{frame['rows']:,}, frauds {frame['frauds']:,}, sha256 {frame['sha256']}"),
        ("events", f"{_when(terms['from_ms'])} to {_when(terms['until_ms'])}"),
        ("labels", f"known before {_when(terms['known_before_ms'])}; strongest first: {sources}"),
        ("declined", f"{terms['declined']}; learned from: {terms['learn']}"),
        ("features", f"{len(found['features'])} fields and features"),
    ]
    for name, table in found.get("tables", {}).items():
        lines.append((f"file {name}", f"{table['rows']:,} rows, sha256 {table['sha256']}"))
    ranges = found.get("lake", [])
    for topic in dict.fromkeys(r["topic"] for r in ranges):
        mine = [r for r in ranges if r["topic"] == topic]
        lines.append((topic, f"{sum(r['rows'] for r in mine):,} rows in {len(mine)} ranges of offsets"))
    return lines


def _when(at_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
