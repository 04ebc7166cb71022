"""What goes after its time: files of the lake, bundles in Redis, folders of runs.

Training, parity and rebuild fold feeds and rows from their start, so those files are kept for good; what may go is what
pipeline.yaml gives a time to. A bundle goes when no alias stands there, `rollback` would not go there, no worker's head
pins it, no file of a use case names it, and no move within the time does; its number and what `models list` says of it
stay. So does what a published bundle was made of and why it passed: the small files of its run, for good.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batch import checks, lake
from batch.pipeline_dags import Maintain
from batch.publish import VERDICT
from batch.retrain import DATA, MANIFEST, PUBLISHED
from batch.run import Run
from riskflow.durations import duration_ms
from riskflow.errors import NotReady, RiskflowError
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.registry import Registry, previous_version
from riskflow.settings import Settings
from riskflow.usecase import UseCase, load_usecase, usecase_names

EVIDENCE = (PUBLISHED, MANIFEST, VERDICT, DATA, checks.RESULTS)  # of a run that has published

log = logging.getLogger(__name__)


class CannotBeRead(RiskflowError):
    """A use case's files cannot be read; the message says which, and why."""


# ---- the lake --------------------------------------------------------------------------------------------------------


def drop_old_files(plan: Plan, conf: Settings, maintain: Maintain) -> dict[str, Any]:
    """Drops files of days that are older than their topic's time; returns how many of each topic."""
    names, dropped = Names(plan.name, prefix=conf.topic_prefix), dict[str, int]()
    with lake.locked(conf.lake_folder, plan.name):
        for topic, text in maintain.lake.items():
            before = datetime.now(UTC) - timedelta(milliseconds=duration_ms(text))
            old = list(old_files(conf.lake_folder, names.feed(topic), before.strftime("%Y-%m-%d")))
            for path in old:
                path.unlink()
            dropped[topic] = len(old)
    return {"dropped": dropped}


def old_files(folder: Path, topic: str, before: str) -> Iterator[Path]:
    """Files of days before that one, from the first on. The last file of a partition stays: it says how far it is."""
    by_partition: dict[int, list[lake.Part]] = {}
    for part in lake.parts(folder, topic):
        by_partition.setdefault(part.partition, []).append(part)
    for parts in by_partition.values():
        for part in parts[:-1]:
            if part.path.parent.name >= f"date={before}":
                break
            yield part.path


# ---- bundles ---------------------------------------------------------------------------------------------------------


def drop_old_bundles(run: Run) -> dict[str, Any]:
    """Drops bundles that nobody names any more; returns their versions. None goes while a use case cannot be read."""
    registry = run.registry()
    try:
        declared = declared_versions(run)
    except CannotBeRead as error:
        log.warning("%s: no bundle is dropped: %s", run.plan.name, error)
        return {"dropped": [], "kept": len(registry.versions()), "waits": str(error)}
    since_ms = int(time.time() * 1000) - duration_ms(run.pipeline.file.maintain.bundles)
    names = registry.names

    def change(pipe: Any) -> list[int]:
        kept = declared | needed_versions(registry, since_ms) | pinned_versions(registry.client, names)
        there = [v for v in registry.versions() if v not in kept and registry.client.exists(names.bundle(v))]
        pipe.multi()
        for version in there:
            pipe.delete(names.bundle(version), names.card(version))
        return there

    found = registry.client.transaction(change, names.aliases, names.history, names.versions, value_from_callable=True)
    return {"dropped": found, "kept": len(registry.versions()) - len(found)}


def needed_versions(registry: Registry, since_ms: int) -> set[int]:
    """Where aliases stand, where `rollback` would take each, and what was moved or published since then."""
    aliases, history = registry.aliases(), registry.history()
    kept = {move.version for move in aliases.values()}
    for move in history:
        if move.at_ms >= since_ms:
            kept |= {move.version, move.previous or 0}
    for alias in {move.alias for move in history}:
        try:
            kept.add(previous_version([m for m in history if m.alias == alias], alias))
        except NotReady:
            continue  # it never pointed elsewhere
    young = {version for version, about in registry.versions().items() if about.get("at_ms", since_ms) >= since_ms}
    return kept | young


def declared_versions(run: Run) -> set[int]:
    """Versions that are named in files: by a Transfer of any use case here, and by this one's `search.warm_start`."""
    begun = run.pipeline.file.search.warm_start
    transfers = [t for usecase in [run.plan.usecase, *_usecases(run.conf.usecases)] for t in usecase.transfers.values()]
    named = [t.bundle for t in transfers if t.usecase == run.plan.name]
    return {version for version in [begun, *named] if isinstance(version, int)}


def _usecases(folder: Path) -> Iterator[UseCase]:
    for name in usecase_names(folder):
        try:
            yield load_usecase(name, folder)
        except Exception as error:  # a use case's module may raise anything
            raise CannotBeRead(
                f"use case {name!r} cannot be read, so nobody knows which versions its transfers name ({error}). "
                f"Mend it: riskflow lint {name}"
            ) from error


def pinned_versions(client: Any, names: Names) -> set[int]:
    """Versions that heads name: a worker that was away for long goes on with the bundle that it had."""
    pinned: set[int] = set()
    pattern = names.head("x", 0).replace(f":g{names.generation}:x:0}}", ":g*}")
    for key in client.scan_iter(match=pattern, count=1000):
        roster = client.hget(key, "roster")
        pinned |= set(_versions(json.loads(roster))) if roster else set()
    return pinned


def _versions(roster: Any) -> Iterator[int]:
    """Every version that stands anywhere in a roster."""
    if isinstance(roster, list):
        for part in roster:
            yield from _versions(part)
    elif isinstance(roster, dict):
        for name, value in roster.items():
            if name == "version" and isinstance(value, int):
                yield value
            else:
                yield from _versions(value)


# ---- runs ------------------------------------------------------------------------------------------------------------


def drop_old_runs(run: Run) -> dict[str, Any]:
    """Drops folders of runs in which nothing was written for the time; never the present one.

    Of a run that has published what EVIDENCE names stays: whoever asks years later gets the same set and the verdict.
    """
    oldest_s = time.time() - duration_ms(run.pipeline.file.maintain.runs) / 1000
    folders = [f for f in run.folder.parent.glob("*") if f.is_dir() and f != run.folder and _newest_s(f) < oldest_s]
    published = [folder for folder in folders if (folder / PUBLISHED).is_file()]
    thinned = [folder.name for folder in sorted(published) if _thin(folder)]
    dropped = sorted(set(folders) - set(published))
    for folder in dropped:
        shutil.rmtree(folder)
    return {"dropped": [folder.name for folder in dropped], "thinned": thinned}


def _thin(folder: Path) -> bool:
    """Whether there was anything to drop beside the evidence."""
    there = [path for path in folder.iterdir() if path.name not in EVIDENCE]
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return bool(there)


def _newest_s(folder: Path) -> float:
    return max((path.stat().st_mtime for path in [folder, *folder.rglob("*")]), default=0.0)
