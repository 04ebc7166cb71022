"""What those say who decide nothing, beside what was decided: a row for each event and alias.

Challengers and shadows of the roster, the champion where the canary decided, and other systems whose scores came on
`external` (as alias `external:<system>`). A comparison of any two stands on this table.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from batch.lake import ACCEPTED, BROKER_MS, EPOCH, OFFSET, PARTITION, STATUS, read_scores, read_topic
from riskflow.names import Names
from riskflow.plan import Plan

EXTERNAL = "external:"
COLUMNS = {
    "event_id": pl.String, "occurred_at": pl.Int64, "alias": pl.String, "bundle": pl.Int64, "score": pl.Float64,
    "band": pl.String, "action": pl.String, "decided_bundle": pl.Int64, "decided_score": pl.Float64,
    "decided_action": pl.String,
}  # fmt: skip
_PLACE = [EPOCH, PARTITION, OFFSET]


def is_external(alias: str) -> bool:
    """Whether it is the name of another system: `external:old_engine`."""
    return alias.startswith(EXTERNAL)


def read_shadow_scores(
    plan: Plan,
    names: Names,
    lake: Path,
    from_ms: int | None = None,
    to_ms: int | None = None,
    said_since_ms: int | None = None,
) -> pl.DataFrame:
    """Effective opinions on events of [from_ms, to_ms), by event time and alias; columns as in COLUMNS.

    said_since_ms: only what challengers and shadows have said from that moment on.

    `score` is null where it could not be worked out. Of another system `bundle` and `band` are null, and `action` is
    where it gave none; only events that were decided here are in the table.
    """
    scores = read_scores(plan, names, lake)
    said = read_topic(lake, names.shadow)
    if said_since_ms is not None and len(said):
        said = said.filter(pl.col(BROKER_MS) >= said_since_ms)
    frames = [_opinions(said, scores), _external(read_topic(lake, names.external), scores)]
    found = pl.concat([frame.select(pl.col(n).cast(kind) for n, kind in COLUMNS.items()) for frame in frames])
    if from_ms is not None:
        found = found.filter(pl.col("occurred_at") >= from_ms)
    if to_ms is not None:
        found = found.filter(pl.col("occurred_at") < to_ms)
    return found.sort("occurred_at", "event_id", "alias")


def _opinions(said: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Of each event those of one message: of the highest epoch, and not of one before its decision was made again."""
    if not len(said):
        return pl.DataFrame(schema=COLUMNS)
    messages = said.select("event_id", *_PLACE).unique()
    best = messages.sort(EPOCH, PARTITION, OFFSET, descending=[True, False, False]).unique("event_id", keep="first")
    if len(scores):
        newest = scores.select("event_id", pl.col(EPOCH).alias("_decided"))
        best = best.join(newest, on="event_id", how="left").filter(
            pl.col("_decided").is_null() | (pl.col(EPOCH) >= pl.col("_decided"))
        )
    return said.join(best.select("event_id", *_PLACE), on=["event_id", *_PLACE], how="semi")


def _external(said: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """The last word of each system on each event that was decided here."""
    if not len(said) or not len(scores):
        return pl.DataFrame(schema=COLUMNS)
    said = said.filter(pl.col(STATUS) == ACCEPTED).with_columns(when=pl.coalesce("at_ms", BROKER_MS))
    last = said.sort("when", PARTITION, OFFSET, descending=True).unique(["event_id", "system"], keep="first")
    decided = scores.select(
        "event_id", "occurred_at", decided_bundle="bundle", decided_score="score", decided_action="action"
    )
    nothing = {"bundle": pl.lit(None, pl.Int64), "band": pl.lit(None, pl.String)}
    return last.join(decided, on="event_id", how="inner").with_columns(alias=EXTERNAL + pl.col("system"), **nothing)
