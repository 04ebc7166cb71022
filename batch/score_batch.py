"""Scores events of the past with a bundle, in chunks on all cores, to a table: the same bits as in the stream.

A row's score does not depend on the rows beside it (riskflow.scoring), so neither chunks nor threads show in it.
onnxruntime lets other threads run while it works.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from batch import past as history
from batch.bundling import needed
from batch.lake import series_of
from batch.past import Needs, Past
from batch.replay import Progress
from batch.run import Run
from riskflow.bundle import Bundle
from riskflow.columns import F8, Columns, Text, concat, n_rows
from riskflow.evaluate import ID
from riskflow.policy import ACTIONS, I1
from riskflow.scoring import Scorer

CHUNK_ROWS = 4_096  # what the stream scores at once at most: larger ones leave the processor's cache

Reasons = dict[int, list[str]]  # of rows that are not approved


@dataclass(frozen=True)
class BatchScores:
    """One value for each row."""

    score: F8
    band: I1
    action: I1
    band_names: tuple[str, ...]
    reasons: Reasons


def past_for(run: Run, bundle: Bundle, needs: Needs, extra: tuple[str, ...] = (), **span: Any) -> Past:
    """The events of a span (see `batch.past.past`) with everything that this bundle looks at."""
    scorer = Scorer(run.plan, bundle)
    wanted = needed(run.plan, bundle.models, bundle.policy)
    return history.past(run, [*dict.fromkeys([*scorer.columns, *extra])], wanted, needs, **span)


def score_columns(
    scorer: Scorer,
    columns: Columns,
    *,
    reasons: bool = False,
    tell: Progress | None = None,
    chunk_rows: int = CHUNK_ROWS,
    threads: int | None = None,
) -> BatchScores:
    """Scores all rows. reasons: say why, for those that are not approved."""
    rows = n_rows(columns)
    needed_here = {name: columns[name] for name in scorer.columns}
    firsts = range(0, max(rows, 1), chunk_rows)
    parts: list[Columns] = []
    words: Reasons = {}

    def score(first: int) -> tuple[Columns, list[tuple[int, list[str]]]]:
        scored = scorer.score(slice_rows(needed_here, first, min(first + chunk_rows, rows)))
        found = zip((first + scored.flagged).tolist(), scored.reasons(), strict=True) if reasons else ()
        return {"score": scored.score, "band": scored.band, "action": scored.action}, list(found)

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for first, (part, found) in zip(firsts, pool.map(score, firsts), strict=True):
            parts.append(part)
            words.update(found)
            if tell is not None:
                tell("events scored", min(first + chunk_rows, rows), rows)
    whole: Any = concat(parts)
    return BatchScores(whole["score"], whole["band"], whole["action"], scorer.decider.bands, words)


def slice_rows(columns: Mapping[str, Any], first: int, end: int) -> Columns:
    """Rows from first to end, without a copy."""
    return {name: _slice_text(c, first, end) if isinstance(c, Text) else c[first:end] for name, c in columns.items()}


def _slice_text(text: Text, first: int, end: int) -> Text:
    begin, stop = int(text.offsets[first]), int(text.offsets[end])
    return Text(text.data[begin:stop], text.offsets[first : end + 1] - begin)


def score_table(bundle: Bundle, columns: Columns, scores: BatchScores, *, reasons: bool = False) -> pl.DataFrame:
    """event_id, score, band, action, bundle and, if asked for, reasons; in the order of the rows."""
    table = pl.DataFrame([
        series_of("event_id", columns[ID]),
        pl.Series("score", scores.score),
        _words("band", scores.band, scores.band_names),
        _words("action", scores.action, ACTIONS),
        pl.Series("bundle", np.full(len(scores.score), bundle.version, np.int64)),
    ])  # fmt: skip
    if not reasons:
        return table
    words = [scores.reasons.get(row, []) for row in range(len(table))]
    return table.with_columns(pl.Series("reasons", words, dtype=pl.List(pl.String)))


def _words(name: str, codes: I1, words: tuple[str, ...]) -> pl.Series:
    return pl.Series(name, np.array(words, dtype=object)[codes].tolist(), dtype=pl.String)
