"""A backtest as steps that hand over files, so that tasks on several machines can each do some of its days.

    prepare  ->  count_day (one for each day)  ->  join

    runs/<use case>/<run>/backtest/
        about.json, bundle.bin, <day>.parquet      what is counted, under which policy, the events of each day
        <day>.json                                 a day that was counted; a day reads 2026-02-08, UTC

Every step may be done again. What is joined equals the backtest in one go.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch import backtest, forecasts
from batch.backtest import About, Backtest, Costs
from batch.files import write_text
from batch.lake import column_of, frame_of
from batch.past import Needs
from batch.run import Run
from batch.tally import Tally, merge, split_by_day
from riskflow.bundle import Bundle
from riskflow.errors import RiskflowError

FOLDER, ABOUT, BUNDLE = "backtest", "about.json", "bundle.bin"


def prepare(run: Run, bundle: Bundle, needs: Needs, **asked: Any) -> list[str]:
    """Writes the events of each day; returns the days. asked: as in `batch.backtest.backtest`."""
    tried, found, about = backtest.prepare(run, bundle, needs, **asked)
    folder = run.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    days = {str(np.datetime64(day, "D")): columns for day, columns in split_by_day(found.columns).items()}
    for day, columns in days.items():
        frame_of(columns).write_parquet(folder / f"{day}.parquet", compression="zstd")
    (folder / BUNDLE).write_bytes(tried.to_bytes())
    (folder / ABOUT).write_text(json.dumps(asdict(about)))
    return list(days)


def count_day(run: Run, day: str) -> int:
    """Scores, decides and counts one day; returns how many events it has."""
    folder = run.folder / FOLDER
    about, bundle = _about(run), Bundle.from_bytes((folder / BUNDLE).read_bytes())
    table = pl.read_parquet(folder / f"{day}.parquet")
    counted = backtest.count(run.plan, bundle, {n: column_of(table[n]) for n in table.columns}, about)
    write_text(folder / f"{day}.json", json.dumps(counted.to_json()))
    return len(table)


def join(run: Run) -> Backtest:
    """The whole backtest, its forecast kept; raises RiskflowError while days are missing."""
    folder = run.folder / FOLDER
    about = _about(run)
    days = sorted(folder.glob("*.parquet"))
    missing = [path.stem for path in days if not path.with_suffix(".json").is_file()]
    if missing:
        raise RiskflowError(f"{folder}: days {missing} are not counted yet. Run the step `count_day` for them first")
    found = Backtest(about, merge(_counted(path.with_suffix(".json")) for path in days))
    forecasts.keep(found, run.conf.lake_folder)
    return found


def _about(run: Run) -> About:
    path = run.folder / FOLDER / ABOUT
    if not path.is_file():
        raise RiskflowError(f"{run.plan.name}, run {run.name}: no backtest is prepared. Run the step `prepare` first")
    said = json.loads(path.read_text())
    costs = Costs(**said["costs"]) if said["costs"] else None
    return About(**{**said, "segments": tuple(said["segments"]), "costs": costs})


def _counted(path: Path) -> Tally:
    return Tally.from_json(json.loads(path.read_text()))
