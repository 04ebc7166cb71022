"""Batch scoring and backtests as steps of a DAG: what is asked for comes as params, or is the run's data interval.

A run that somebody starts has neither: it gets the last seven days that the archive holds whole.

scored/<use case>/<version>/<from>-<to>.parquet      event_id, score, band, action, bundle, reasons if asked for
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from batch import backtest_parts
from batch.backtest import backtest
from batch.files import whole
from batch.forecasts import keep
from batch.importer import at_ms
from batch.past import Needs, newest_event_ms
from batch.read_only import Shelf
from batch.retrain import PUBLISHED
from batch.run import Run
from batch.score_batch import past_for, score_columns, score_table
from batch.task_runs import Skipped
from riskflow.bundle import Bundle
from riskflow.errors import DeclarationError, NotReady
from riskflow.policy import DAY_MS, Policy
from riskflow.scoring import Scorer

DAY_CHARS = len("2026-03-01")
DAYS = 7  # of a run without a span


@dataclass(frozen=True)
class Wish:
    """Which bundle over which events. Times are milliseconds; None: from the first, or to the last event."""

    bundle: str = "champion"
    from_ms: int | None = None
    to_ms: int | None = None
    policy: str | None = None
    segments: tuple[str, ...] = ()
    fold: bool = False
    reasons: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any], from_ms: int | None, to_ms: int | None) -> Wish:
        """Params before the data interval; raises DeclarationError for a time that is none."""
        if params.get("from") or params.get("to"):
            from_ms, to_ms = (moment_ms(params.get(name), f"param {name}") for name in ("from", "to"))
            if from_ms is not None and to_ms is not None and from_ms >= to_ms:
                raise DeclarationError(
                    "param from", f"{params['from']} is not before to, {params['to']}", "Let time lie between"
                )
        given = {name: params[name] for name in ("policy", "fold", "reasons") if params.get(name)}
        segments = tuple(params.get("segments") or ())
        return cls(str(params.get("bundle") or "champion"), from_ms, to_ms, segments=segments, **given)


def wish_of(run: Run, params: Mapping[str, Any], from_ms: int | None, to_ms: int | None) -> Wish:
    """Params before the data interval, and that before the archive's last seven days."""
    wish = Wish.of(params, from_ms, to_ms)
    if wish.from_ms is not None or wish.to_ms is not None:
        return wish
    newest = newest_event_ms(run)
    if newest is None:
        return wish  # whoever reads finds nothing, and says so
    end = newest // DAY_MS * DAY_MS  # the newest day may go on
    return replace(wish, from_ms=end - DAYS * DAY_MS, to_ms=end)


def moment_ms(text: str | None, name: str) -> int | None:
    """RFC 3339 or a day (UTC) as milliseconds; raises DeclarationError under this name."""
    if not text:
        return None
    return int(at_ms(pl.Series(name, [f"{text}T00:00:00Z" if len(text) == DAY_CHARS else text]))[0])


def score(run: Run, wish: Wish) -> dict[str, Any]:
    """Scores the events of the span to Parquet; done again it writes the same file. No event of that time: no file."""
    bundle, needs = _chosen(run, wish)
    try:
        found = past_for(run, bundle, needs, from_ms=wish.from_ms, to_ms=wish.to_ms, fold=wish.fold)
    except NotReady as empty:
        return {"events": 0, "bundle": bundle.version, "why": str(empty)}
    scores = score_columns(Scorer(run.plan, bundle), found.columns, reasons=wish.reasons)
    table = score_table(bundle, found.columns, scores, reasons=wish.reasons)
    span = f"{_name(wish.from_ms)}-{_name(wish.to_ms)}"
    path = run.conf.home / "scored" / run.plan.name / str(bundle.version) / f"{span}.parquet"
    _write(table, path)
    actions = dict(table["action"].value_counts().iter_rows())
    return {
        "events": len(table),
        "bundle": bundle.version,
        "file": str(path),
        "features": found.says,
        "actions": actions,
    }


def foretell(run: Run) -> dict[str, Any]:
    """Keeps a backtest of what the run has published, over the archive's last whole days. Skipped without events."""
    version = json.loads((run.folder / PUBLISHED).read_text())["version"]
    wish = wish_of(run, {"bundle": str(version)}, None, None)
    bundle, needs = _chosen(run, wish)
    try:
        found = backtest(run, bundle, needs, from_ms=wish.from_ms, to_ms=wish.to_ms)
    except NotReady as empty:
        raise Skipped(str(empty)) from None
    summary = found.summary()
    told = {name: summary[name] for name in ("bundle", "from_ms", "to_ms", "events", "flipped_share")}
    return {**told, "file": str(keep(found, run.conf.lake_folder))}


def prepare(run: Run, wish: Wish) -> list[str]:
    """Writes the events of each day for a backtest; returns the days. Skipped where there is no event."""
    bundle, needs = _chosen(run, wish)
    policy = Policy.load(Path(wish.policy)) if wish.policy else None
    if policy is not None:
        policy.check(run.plan)
    span = {"from_ms": wish.from_ms, "to_ms": wish.to_ms, "fold": wish.fold}
    try:
        return backtest_parts.prepare(run, bundle, needs, policy=policy, segments=wish.segments, **span)
    except NotReady as empty:
        raise Skipped(str(empty)) from None


def _chosen(run: Run, wish: Wish) -> tuple[Bundle, Needs]:
    shelf = Shelf(run.plan, run.conf)
    return shelf.bundle(wish.bundle), shelf.needs


def _name(at: int | None) -> str:
    return "all" if at is None else datetime.fromtimestamp(at / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")


def _write(table: pl.DataFrame, path: Path) -> None:
    with whole(path) as beside:
        table.write_parquet(beside, compression="zstd")
