"""Whether labels are ready to learn from: events with a label that have become mature since labels were last announced.

    labels/<use case>.json      how many there were then, and which run said so

Which events are mature is what batch/truth.py says; of a labelled event that is not in the archive's messages the
label's own time is taken, which is later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from batch import lake
from batch.files import write_text
from batch.run import Run
from batch.truth import mature_before_ms
from riskflow.evaluate import ID, TIME


def fresh_labels(run: Run) -> dict[str, Any]:
    """{"mature": n, "fresh": of them, "ready": enough}; the same again for the run that has announced them."""
    path = run.conf.home / "labels" / f"{run.plan.name}.json"
    before: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"mature": 0, "run": None}
    if before["run"] == run.name:
        return {name: before[name] for name in ("mature", "fresh", "ready")}
    mature = mature_labels(run)
    fresh = max(0, mature - before["mature"])
    found = {"mature": mature, "fresh": fresh, "ready": fresh >= run.pipeline.file.fresh_labels}
    if found["ready"] or mature < before["mature"]:  # fewer: another lake or maturity, whose labels are counted anew
        _write(path, {**found, "run": run.name})
    return found


def mature_labels(run: Run) -> int:
    """How many events have a label and are mature."""
    feed = next((f for f in run.plan.usecase.feeds if f.about), None)
    if feed is None:
        return 0
    labels = _messages(run, feed.name, [str(feed.about), TIME])
    events = _messages(run, run.plan.scored.name, [ID, TIME])
    if not len(labels) or not len(events):
        return 0
    known = labels.group_by(str(feed.about)).agg(pl.col(TIME).min().alias("_labelled"))
    at_ms = known.join(events.unique(ID), left_on=str(feed.about), right_on=ID, how="left").select(
        pl.coalesce(TIME, "_labelled")
    )
    return int((at_ms.to_series() < mature_before_ms(run, _newest_ms(run))).sum())


def _newest_ms(run: Run) -> int:
    frames = (_messages(run, feed.name, [TIME]) for feed in run.plan.usecase.feeds)
    return max(int(frame[TIME].max()) for frame in frames if len(frame))  # type: ignore[arg-type]


def _messages(run: Run, feed: str, columns: list[str]) -> pl.DataFrame:
    """Archived messages that could be read, parked ones too."""
    frame = lake.read_topic(run.conf.lake_folder, run.names.feed(feed), [*columns, lake.STATUS])
    return frame.filter(pl.col(lake.STATUS).is_in([lake.ACCEPTED, lake.PARKED])) if len(frame) else frame


def _write(path: Path, about: dict[str, Any]) -> None:
    write_text(path, json.dumps(about) + "\n")
