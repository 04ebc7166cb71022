"""What became of declined events: some were let through to learn, the others nobody will ever know about.

A declined event gets no label, and silence about it does not mean genuine. Where a policy lets a share through, those
stand for all that the score declined: each weighs one over its share (inverse propensity: Horvitz and Thompson, 1952),
and the declined ones themselves say nothing. What a bundle declined that let nobody through says nothing unless a label
says what it was. The share stands in the archived score, in words (riskflow/policy.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from batch import lake
from batch.lake import Seen
from riskflow.columns import F8, I8, Text
from riskflow.evaluate import ID
from riskflow.policy import DECLINE, LET_THROUGH

if TYPE_CHECKING:
    from batch.run import Run

FEWEST = 30  # fewer of them do not show what is declined: each has the weight of many, and there may be none by chance

_SHARE = re.escape(LET_THROUGH) + r"([0-9.e-]+)"


@dataclass(frozen=True)
class Decisions:
    """Events that the score would have declined, by the hash of their id, sorted."""

    declined: I8
    by: I8  # the bundle that declined each of them
    let: I8  # those that were let through
    share: F8  # with which odds
    lets_through: I8  # bundles that let anybody through


def read_decisions(run: Run, seen: Seen | None = None) -> Decisions:
    """What the archived rows and scores say."""
    folder, names = run.conf.lake_folder, run.names
    wanted = [*lake.ROW_KEY, ID, lake.EPOCH, lake.PARTITION, lake.OFFSET, lake.ROW, "_action", "_bundle"]
    rows = lake.effective(lake.read_topic(folder, names.rows, wanted, seen and seen.upto(names.rows)))
    declined = rows.filter(pl.col("_action") == DECLINE) if "_action" in rows.columns else None
    scores = lake.read_topic(
        folder, names.scores, ["event_id", "reasons", "bundle", lake.EPOCH], seen and seen.upto(names.scores)
    )
    let = _let_through(scores)
    ids, by = _sorted(declined, ID, "_bundle")
    let_ids, share = _sorted(let, "event_id", "share")
    bundles = np.zeros(0, np.int64) if let is None else let["bundle"].unique().to_numpy()
    return Decisions(ids, by.astype(np.int64), let_ids, share.astype(np.float64), bundles)


def stands_for(events: I8, said: F8, decisions: Decisions) -> F8:
    """How many events each of these (by hash) stands for; 0: it says nothing. said: its label, NaN without one."""
    weight = np.ones(len(events))
    declined, at = _find(decisions.declined, events)
    tried = np.zeros(len(events), np.bool_)
    tried[declined] = np.isin(decisions.by[at[declined]], decisions.lets_through)
    weight[declined & (tried | np.isnan(said))] = 0.0
    let, at = _find(decisions.let, events)
    weight[let] = 1 / decisions.share[at[let]]
    return weight


def _let_through(scores: pl.DataFrame) -> pl.DataFrame | None:
    if "reasons" not in scores.columns:  # there are none
        return None
    scores = scores.sort(lake.EPOCH, descending=True, maintain_order=True)
    last = scores.unique("event_id", keep="first", maintain_order=True)
    found = last.with_columns(share=pl.col("reasons").str.extract(_SHARE).cast(pl.Float64))
    return found.filter(pl.col("share").is_not_null())


def _sorted(table: pl.DataFrame | None, name: str, value: str) -> tuple[I8, Any]:
    """Hashes of a column of ids in order, and what belongs to each."""
    if table is None or not len(table):
        return np.zeros(0, np.int64), np.zeros(0)
    hashes = Text.of_strings(table[name].to_list()).hashes()
    order = np.argsort(hashes, kind="stable")
    return hashes[order], table[value].to_numpy()[order]


def _find(known: I8, hashes: I8) -> tuple[Any, Any]:
    """Which of the hashes are known, and where."""
    if not len(known):
        return np.zeros(len(hashes), np.bool_), np.zeros(len(hashes), np.int64)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return known[at] == hashes, at
