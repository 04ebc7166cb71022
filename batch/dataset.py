"""Versions of training sets: a manifest says what one was made of, and makes the same one again, bit for bit.

    manifest.json   terms (span, label cut-off, sources), fingerprints of features, columns and hash of the frame
                    lake: ranges of offsets, each with a hash of its rows
                    generations: what each began with, a hash of each file's bytes
                    tables: of a set made from files, a hash of each table

Ranges are named, not files: the archive may grow, and its files may be merged into others. A range whose rows are not
what they were is named, and so is a feature that has changed since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from batch import lake
from batch.bundling import code_version
from batch.generations import Generations
from batch.lake import OFFSET, Seen
from batch.review_sample import FOLDER
from batch.table_hash import content_hash
from batch.training_set import SAMPLED, WEIGHTED, Terms, TrainingSet
from riskflow.bundle import canonical
from riskflow.errors import RiskflowError
from riskflow.plan import Plan

if TYPE_CHECKING:
    from batch.run import Run

FORMAT = 1
MOST_NAMED = 5  # problems in one message
Manifest = dict[str, Any]


class CannotRebuild(RiskflowError):
    """A training set cannot be made again; the message names what is missing or has changed."""


# ---- writing ---------------------------------------------------------------------------------------------------------


def of_lake(run: Run, seen: Seen, terms: Terms, data: TrainingSet) -> Manifest:
    """What a training set from the archive was made of."""
    scores = [run.names.scores] if terms.declined == WEIGHTED else []
    topics = [topic for topic in seen.ends if topic != run.names.scores] + scores
    ranges = [r for topic in topics for r in _ranges(run.conf.lake_folder, topic, seen.upto(topic))]
    return {
        **_about(run, terms, data), "lake": ranges,
        "generations": [_generation(run, g) for g in seen.generations],
        "samples": _samples(run, seen) if terms.learn == SAMPLED else {},
    }  # fmt: skip


def of_tables(run: Run, tables: Mapping[str, pl.DataFrame | None], terms: Terms, data: TrainingSet) -> Manifest:
    """What a training set from files was made of."""
    hashes = {n: {"rows": len(t), "sha256": content_hash(t)} for n, t in tables.items() if t is not None}
    return {**_about(run, terms, data), "tables": hashes}


def write(manifest: Manifest, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def read(path: Path) -> Manifest:
    """A manifest, or the one in a run's folder; raises CannotRebuild when there is none."""
    path = path / "manifest.json" if path.is_dir() else path
    try:
        manifest = dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise CannotRebuild(f"{path} is no manifest ({error}). Runs keep theirs in runs/<use case>/<run>/") from None
    if manifest.get("format") != FORMAT:
        raise CannotRebuild(f"{path} has format {manifest.get('format')}; this code reads {FORMAT}")
    return manifest


def manifest_hash(manifest: Manifest) -> str:
    """What a bundle carries of it; equal manifests have equal hashes."""
    return hashlib.sha256(canonical(manifest)).hexdigest()


def _about(run: Run, terms: Terms, data: TrainingSet) -> Manifest:
    table = data.table()
    frame = {"rows": len(data), "frauds": data.frauds, "columns": table.columns, "sha256": content_hash(table)}
    if len(data):
        frame |= {"first_ms": int(data.at_ms[0]), "last_ms": int(data.at_ms[-1])}
    return {
        "format": FORMAT, "usecase": run.plan.name, "run": run.name, "code": code_version(),
        "terms": {**asdict(terms), "label_sources": list(terms.label_sources)},
        "maturity_ms": run.pipeline.maturity_ms, "features": fingerprints(run.plan), "frame": frame,
    }  # fmt: skip


def fingerprints(plan: Plan) -> dict[str, str]:
    """Of every field and feature that a training set is made of."""
    return {name: plan.nodes[name].fingerprint for name in [*plan.fields, *plan.features]}


def _ranges(folder: Path, topic: str, upto: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    """Each file's part in what is read, and a hash of those rows."""
    for part in lake.parts(folder, topic):
        last = min(part.last, upto.get(part.partition, 0) - 1)
        if part.start <= last:
            rows = _rows_of(part.path, part.start, last)
            yield {
                "topic": topic, "partition": part.partition, "first": part.start, "last": last, "rows": len(rows),
                "sha256": content_hash(rows), "path": str(part.path.relative_to(folder)),
            }  # fmt: skip


def _generation(run: Run, generation: int) -> dict[str, Any]:
    folder = Generations(run.plan, run.names, run.conf.lake_folder).folder(generation)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {"generation": generation, "files": {str(path.relative_to(folder)): _sha256(path) for path in files}}


# ---- making it again -------------------------------------------------------------------------------------------------


def rebuild(run: Run, manifest: Manifest) -> TrainingSet:
    """The training set of a manifest, the same bits; raises CannotRebuild naming what is not as it was."""
    from batch.archived import span_set, with_features

    _refuse(manifest, [*_other_use(run, manifest), *changed_features(run.plan, manifest)])
    _refuse(manifest, [*_changed_rows(run, manifest), *_changed_files(run, manifest)])
    seen = seen_then(manifest)
    terms = Terms(**{**manifest["terms"], "label_sources": tuple(manifest["terms"]["label_sources"])})
    data = span_set(run, with_features(run, seen=seen), terms, seen)
    columns = {name: column for name, column in data.columns.items() if name in manifest["frame"]["columns"]}
    data = TrainingSet(columns, data.fraud, data.weight)
    if content_hash(data.table()) != manifest["frame"]["sha256"]:
        made = f"made by code {manifest['code']}, this is {code_version()}"
        _refuse(manifest, [f"the same rows give another frame ({made})"])
    return data


def seen_then(manifest: Manifest) -> Seen:
    """The lake as the manifest's training set saw it."""
    ends: dict[str, dict[int, int]] = {}
    for r in manifest["lake"]:
        of_topic = ends.setdefault(r["topic"], {})
        of_topic[r["partition"]] = max(r["last"] + 1, of_topic.get(r["partition"], 0))
    return Seen(ends, tuple(g["generation"] for g in manifest["generations"]), tuple(manifest["samples"]))


def changed_features(plan: Plan, manifest: Manifest) -> list[str]:
    """What the set was made of and is no longer as it was, by name."""
    out = []
    for name, fingerprint in manifest["features"].items():
        if name not in plan.nodes:
            out.append(f"{name!r} is no longer declared")
        elif plan.nodes[name].fingerprint != fingerprint:
            out.append(f"{name!r} has changed since")
    return out


def _other_use(run: Run, manifest: Manifest) -> Iterator[str]:
    if manifest["usecase"] != run.plan.name:
        yield f"it is of use case {manifest['usecase']!r}, not of {run.plan.name!r}"
    if "tables" in manifest:
        names = ", ".join(f"{name} ({t['sha256'][:12]})" for name, t in manifest["tables"].items())
        yield f"it was made from files, which the lake does not keep: {names}. Train from them again: riskflow train"


def _changed_rows(run: Run, manifest: Manifest) -> Iterator[str]:
    """Ranges of offsets that are not in the lake any more, or whose rows are others."""
    folder = run.conf.lake_folder
    known = {topic: lake.parts(folder, topic) for topic in {r["topic"] for r in manifest["lake"]}}
    for r in manifest["lake"]:
        parts = [p for p in known[r["topic"]] if p.partition == r["partition"]]
        parts = [p for p in parts if p.start <= r["last"] and p.last >= r["first"]]
        where = f"{r['topic']}, partition {r['partition']}, offsets {r['first']} to {r['last']}"
        if not _covered(parts, r["first"], r["last"]):
            yield f"{where}: not in the lake any more (then {r['path']})"
            continue
        tables = [_rows_of(p.path, max(p.start, r["first"]), min(p.last, r["last"])) for p in parts]
        table = tables[0] if len(tables) == 1 else pl.concat(tables, how="diagonal_relaxed")
        if content_hash(table) != r["sha256"]:
            files = ", ".join(str(p.path.relative_to(folder)) for p in parts)
            yield f"{where}: the rows in {files} are not what they were"


def _samples(run: Run, seen: Seen) -> dict[str, str]:
    folder = run.conf.lake_folder / FOLDER / run.plan.name
    return {name: _sha256(folder / name) for name in seen.samples}


def _changed_files(run: Run, manifest: Manifest) -> Iterator[str]:
    generations = Generations(run.plan, run.names, run.conf.lake_folder)
    named = [(generations.folder(g["generation"]), g["files"]) for g in manifest["generations"]]
    for folder, files in [*named, (run.conf.lake_folder / FOLDER / run.plan.name, manifest["samples"])]:
        for name, sha256 in files.items():
            if not (folder / name).is_file():
                yield f"{folder / name} is missing"
            elif _sha256(folder / name) != sha256:
                yield f"{folder / name} is not what it was"


def _covered(parts: list[lake.Part], first: int, last: int) -> bool:
    """Whether the files hold every offset of the range."""
    for part in sorted(parts, key=lambda p: p.start):
        if part.start > first:
            return False
        first = max(first, part.last + 1)
    return first > last


def _rows_of(path: Path, first: int, last: int) -> pl.DataFrame:
    return _whole(path, path.stat().st_mtime_ns).filter(pl.col(OFFSET).is_between(first, last))


@lru_cache(maxsize=1)
def _whole(path: Path, _changed_ns: int) -> pl.DataFrame:
    """A merged file holds many ranges: it is read once for those that follow each other."""
    return pl.read_parquet(path, hive_partitioning=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(manifest: Manifest, problems: list[str]) -> None:
    if problems:
        more = f", and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise CannotRebuild(
            f"{manifest['usecase']}, run {manifest['run']}: this training set cannot be made again. "
            + "; ".join(problems[:MOST_NAMED]) + more
        )  # fmt: skip
