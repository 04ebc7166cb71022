"""What a canary has decided at its present share, beside what the champion would have decided on the same events.

Read from two topics alone, and of those only the days since the canary's move: `shadow` has the champion's word
wherever the canary decided, and the events say whom each is about.
"""

from __future__ import annotations

import polars as pl

from batch.archive import archive
from batch.guard import AT, CANARY, CHAMPION, ENTITY, PAIRS
from batch.lake import BROKER_MS, EPOCH, OFFSET, PARTITION, read_topic
from batch.run import Run
from riskflow import moves
from riskflow.evaluate import ID
from riskflow.moves import Move
from riskflow.policy import DAY_MS

EVENT = "event_id"
_PLACE = [BROKER_MS, PARTITION, OFFSET]
_SAID = [EVENT, AT, "alias", "bundle", "action", "decided_bundle", "decided_action", EPOCH, *_PLACE]
EARLIER_MS = DAY_MS  # an event may have waited so long for its decision


def bring_pairs(run: Run) -> None:
    """Brings the lake up to the ends of the two topics."""
    archive(run.plan, run.conf, [_events_topic(run), run.names.shadow])


def canary_pairs(run: Run, canary: Move, champion: Move) -> pl.DataFrame:
    """Each event once, in the order of the decisions; columns as in batch.guard.PAIRS."""
    folder = run.conf.lake_folder
    said = read_topic(folder, run.names.shadow, _SAID, since_ms=canary.at_ms)
    whose = read_topic(folder, _events_topic(run), [ID, run.plan.entities[0]], since_ms=canary.at_ms - EARLIER_MS)
    if not len(said) or not len(whose):
        return pl.DataFrame(schema=PAIRS)
    said = said.filter(
        alias=moves.CHAMPION, bundle=champion.version, decided_bundle=canary.version
    ).filter(pl.col(BROKER_MS) >= canary.at_ms)  # fmt: skip
    said = said.sort(EPOCH, *_PLACE, descending=[True, False, False, False]).unique(EVENT, keep="first")
    whose = whose.select(pl.col(ID).alias(EVENT), pl.col(run.plan.entities[0]).alias(ENTITY)).drop_nulls()
    both = said.join(whose.unique(EVENT), on=EVENT, how="inner").sort(_PLACE)
    both = both.select(ENTITY, AT, pl.col("decided_action").alias(CANARY), pl.col("action").alias(CHAMPION))
    return both.cast(PAIRS)  # type: ignore[arg-type]


def _events_topic(run: Run) -> str:
    return run.names.feed(run.plan.scored.name)
