"""A bundle beside another system's scores: what both say of the same archived events, and which of the two is right.

Scores of two systems need not have one scale, so they are compared by rank: average precision. Alerts and declines are
what their actions say. What one of them declines is left out where the truth is asked for, since nobody hears of it
again (batch/horse_race.py says why of both sides); and so is what was let through, which stands for what is declined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from batch.horse_race import FRAUD, LET, known_events
from batch.metrics import average_precision
from batch.run import Run
from batch.shadow_scores import is_external, read_shadow_scores
from batch.training_set import WEIGHT
from riskflow.errors import NotReady
from riskflow.policy import ACTIONS, APPROVE, DECLINE

EVENT, SCORE, ACTION = "event_id", "score", "action"
APPROVED, DECLINED = ACTIONS[APPROVE], ACTIONS[DECLINE]
Facts = dict[str, Any]


def beside_external(run: Run, version: int, system: str) -> tuple[Facts, Facts]:
    """Figures of the bundle and of the system, under the same names. Raises NotReady where they share no event."""
    said = read_shadow_scores(run.plan, run.names, run.conf.lake_folder)
    its = said.filter(pl.col("alias") == system).select(EVENT, SCORE, ACTION)
    both = _of_bundle(said, version).join(its, on=EVENT, how="inner", suffix="_its")
    if not len(both):
        spoke = sorted(alias for alias in said["alias"].unique() if is_external(alias))
        raise NotReady(
            f"no archived event was scored by bundle {version} of {run.plan.name} and by {system}. Systems that are "
            f"archived: {', '.join(spoke) or 'none'}. To bring the archive up to now: riskflow archive {run.plan.name}"
        )
    known, _ = known_events(run)
    known = both.join(known.select(EVENT, FRAUD, WEIGHT, LET), on=EVENT, how="inner")
    declined = (pl.col(ACTION) == DECLINED) | (pl.col(f"{ACTION}_its") == DECLINED).fill_null(False)
    seen = known.filter(~(declined | pl.col(LET)))
    return _facts(both, seen, SCORE, ACTION), _facts(both, seen, f"{SCORE}_its", f"{ACTION}_its")


def _of_bundle(said: pl.DataFrame, version: int) -> pl.DataFrame:
    """What a bundle has said of each event, whether it decided or not."""
    decided = said.filter(pl.col("decided_bundle") == version)
    decided = decided.select(EVENT, pl.col("decided_score").alias(SCORE), pl.col("decided_action").alias(ACTION))
    beside = said.filter(pl.col("bundle") == version).select(EVENT, SCORE, ACTION)
    return pl.concat([decided, beside]).unique(EVENT, keep="first", maintain_order=True)


def _facts(both: pl.DataFrame, seen: pl.DataFrame, score: str, action: str) -> Facts:
    alerts, declines = (_share(both[action], wanted) for wanted in (ACTIONS[APPROVE + 1 :], [DECLINED]))
    rows = seen.drop_nulls(score)
    ap = average_precision(*(rows[name].to_numpy() for name in (score, FRAUD, WEIGHT)))
    hits, flagged, frauds = _counted(seen, action)
    return {
        "events scored by both": len(both), "alerts, of all": alerts, "declines, of all": declines,
        "events that neither declines and whose truth is known": len(seen), "frauds among them": int(seen[FRAUD].sum()),
        "average precision on them": ap, "precision of alerts on them": hits / flagged if flagged else None,
        "recall of alerts on them": hits / frauds if alerts is not None and frauds else None,
    }  # fmt: skip


def _share(actions: pl.Series, wanted: Sequence[str]) -> float | None:
    """Of those that say what they would do; None where none does."""
    said = actions.drop_nulls()
    return float(said.is_in(list(wanted)).mean()) if len(said) else None  # type: ignore[arg-type]


def _counted(seen: pl.DataFrame, action: str) -> tuple[float, float, float]:
    """How many frauds that raise an alert, alerts, and frauds the rows stand for."""
    flagged = seen.filter(pl.col(action) != APPROVED)
    hits, frauds = (float((rows[FRAUD] * rows[WEIGHT]).sum()) for rows in (flagged, seen))
    return hits, float(flagged[WEIGHT].sum()), frauds
