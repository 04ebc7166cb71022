"""Scored events of the past: features as of then, what was decided live, what each turned out to be.

Features come from where they are known to be right. Archived rows carry those that the stream had worked out, and the
bundle that scored a row names the fingerprints that its features had: where they are this plan's, the archive is
taken as it is. Else, and for files of a first start, everything is folded again through the kernel. Both give the same
bits (`riskflow parity`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from batch import lake
from batch.archived import with_features
from batch.generations import Generations
from batch.history import history_columns
from batch.replay import Progress, replay
from batch.run import Run
from batch.training_set import SOURCE, TARGET, WEIGHT, sends_labels
from batch.truth import Truth, truth
from riskflow.columns import Columns, Text, take
from riskflow.declare import NUMBER, TEXT
from riskflow.errors import NotReady
from riskflow.evaluate import ID, KIND, TIME, Failures, empty_field
from riskflow.hashkey import read_hash_key
from riskflow.plan import Plan

SCORE, ACTION, BUNDLE = "_score", "_action", "_bundle"  # of a row, as the stream wrote them
TRUTH = "_truth"  # beside WEIGHT: how many events each stands for
GENUINE, FRAUD, UNKNOWN = 0, 1, -1
UNDECIDED = -1  # the action of an event that was never decided live
NO_BUNDLE = -1
PLACES = (*lake.ROW_KEY, lake.EPOCH, lake.PARTITION, lake.OFFSET, lake.ROW)

Needs = Callable[[int], Mapping[str, str] | None]  # version -> feature -> fingerprint


@dataclass(frozen=True)
class Past:
    """Events in order of time, one row each. `folded` says why features were worked out again; empty: they were not.

    failed: what functions raised meanwhile, by name; those features are NaN.
    """

    columns: Columns
    folded: str
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def says(self) -> str:
        failed = "".join(f"; {name} {what}" for name, what in self.failed.items())
        return f"worked out again: {self.folded}{failed}" if self.folded else "as archived"


def past(
    run: Run,
    columns: Sequence[str],
    wanted: Mapping[str, str],
    needs: Needs,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    tables: Mapping[str, pl.DataFrame | None] | None = None,
    fold: bool = False,
    tell: Progress | None = None,
) -> Past:
    """Events of [from_ms, to_ms) with these columns.

    wanted: these, and what they are made of, with their fingerprints. needs: what the bundles need
    that scored live. tables: a history in files instead of the lake. fold: work features out again in any case.
    """
    failures = Failures()
    if tables is not None:
        whole = _undecided(_from_tables(run, tables, tell, failures))
        return Past(_events(run, whole, columns, from_ms, to_ms), "they come from files", failures.summary())
    archived = archived_rows(run, columns)
    why = "asked for" if fold else _why_fold(run, archived, wanted, needs, from_ms, to_ms)
    whole = _with_live(with_features(run, tell, failures=failures), archived) if why else archived
    return Past(_events(run, whole, columns, from_ms, to_ms), why, failures.summary())


# ---- where features come from ----------------------------------------------------------------------------------------


def archived_rows(run: Run, columns: Sequence[str]) -> Columns:
    """Effective rows of all feeds, only with what is asked for and what labels say."""
    labels = [f.about for f in run.plan.usecase.feeds if f.about]
    wanted = [*PLACES, ID, TIME, SCORE, ACTION, BUNDLE, *labels, TARGET, SOURCE, *columns]
    wanted = list(dict.fromkeys(name for name in wanted if name))
    frame = lake.effective(lake.read_topic(run.conf.lake_folder, run.names.rows, wanted))
    return _filled(run.plan, {name: lake.column_of(frame[name]) for name in frame.columns}, wanted, len(frame))


def newest_event_ms(run: Run) -> int | None:
    """When the newest archived event happened, streamed or in a first start's files; None without any."""
    rows = lake.read_topic(run.conf.lake_folder, run.names.rows, [KIND, TIME])
    found = [rows.filter(pl.col(KIND) == 0)[TIME].max()] if len(rows) else []
    generations = Generations(run.plan, run.names, run.conf.lake_folder)
    for generation in generations.begun():
        history = generations.history(generation)
        if history is not None:
            found.append(np.asarray(history[TIME])[_chosen(history, None, None)].max(initial=0))
    return max((int(at_ms) for at_ms in found if at_ms), default=None)


def _filled(plan: Plan, found: Columns, wanted: Sequence[str], n: int) -> Columns:
    """The same with every wanted column: what was declared later is missing in older rows."""
    kinds = dict.fromkeys((ID, *plan.entities), TEXT) | {name: kind.kind for name, kind in plan.fields.items()}
    given = (name for name in (TARGET, SOURCE) if name not in plan.fields)
    absent = set(wanted) - set(found) - set(given)
    return {**found, **{name: empty_field(kinds.get(name, NUMBER), n) for name in absent}}


def _from_tables(
    run: Run, tables: Mapping[str, pl.DataFrame | None], tell: Progress | None, failures: Failures
) -> Columns:
    key = read_hash_key(run.plan, run.conf.keys_folder)
    replayed = replay(run.plan, history_columns(run.plan, tables, key), tell=tell)
    failures.include(replayed.failures)
    return replayed.columns


def _why_fold(
    run: Run, archived: Columns, wanted: Mapping[str, str], needs: Needs, from_ms: int | None, to_ms: int | None
) -> str:
    """Why the archived features cannot be taken; empty when they can."""
    files = _files_reach_into(run, from_ms, to_ms)
    if files:
        return files
    rows = _chosen(archived, from_ms, to_ms)
    for version in np.unique(np.asarray(archived[BUNDLE])[rows]).tolist():
        then = needs(version)
        if then is None:
            return f"bundle {version}, which scored some of them, is not in the registry"
        for name, fingerprint in wanted.items():
            if then.get(name) != fingerprint:
                how = "did not need" if name not in then else "knew otherwise"
                return f"bundle {version}, which scored some of them, {how} {name!r}"
    return ""


def _files_reach_into(run: Run, from_ms: int | None, to_ms: int | None) -> str:
    generations = Generations(run.plan, run.names, run.conf.lake_folder)
    for generation in generations.begun():
        history = generations.history(generation)
        if history is not None and len(_chosen(history, from_ms, to_ms)):
            return f"generation {generation} began with files of that time"
    return ""


# ---- what is known of each event -------------------------------------------------------------------------------------


def _undecided(columns: Columns) -> Columns:
    """Columns of events that nobody decided live."""
    n = len(columns[KIND])
    live: Columns = {
        SCORE: np.full(n, np.nan),
        ACTION: np.full(n, UNDECIDED, np.int8),
        BUNDLE: np.full(n, NO_BUNDLE, np.int64),
    }
    return {**columns, **live}


def _with_live(columns: Columns, archived: Columns) -> Columns:
    """The columns with what was decided live, found by the event's id."""
    out = _undecided(columns)
    decided = np.flatnonzero((archived[KIND] == 0) & (np.asarray(archived[ACTION]) != UNDECIDED))
    known = _hashes(archived)[decided]
    order = np.argsort(known, kind="stable")
    known, decided = known[order], decided[order]
    if not len(known):
        return out
    ids = _hashes(columns)
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    found = np.flatnonzero((known[at] == ids) & (columns[KIND] == 0))
    for name in (SCORE, ACTION, BUNDLE):
        out[name][found] = np.asarray(archived[name])[decided[at[found]]]  # type: ignore[index]
    return out


def _events(run: Run, whole: Columns, columns: Sequence[str], from_ms: int | None, to_ms: int | None) -> Columns:
    """Scored events of a span with their truth, in order of time, each once."""
    rows = _chosen(whole, from_ms, to_ms)
    rows = rows[_first_of_each(_hashes(whole)[rows], np.asarray(whole[ACTION])[rows])]
    if not len(rows):
        raise NotReady(
            f"{run.plan.name}: the lake {run.conf.lake_folder} holds no event of that time. "
            f"Run `riskflow archive {run.plan.name}`, or choose another --from and --to"
        )
    at_ms = np.asarray(whole[TIME])
    rows = rows[np.argsort(at_ms[rows], kind="stable")]
    names = dict.fromkeys([ID, TIME, SCORE, ACTION, BUNDLE, *columns])
    found = known_of(run, whole, rows)
    told = np.where(found.known, found.fraud, UNKNOWN).astype(np.int8)
    return {**take({n: whole[n] for n in names}, rows), TRUTH: told, WEIGHT: found.weight}


def known_of(run: Run, whole: Columns, rows: NDArray[np.int64]) -> Truth:
    """What training would take each of the rows for; all are unknown where nobody sends labels."""
    if not sends_labels(run.plan):
        return Truth(np.zeros(len(rows)), np.zeros(len(rows)))
    return truth(run, whole, rows)


def _chosen(columns: Columns, from_ms: int | None, to_ms: int | None) -> NDArray[np.int64]:
    """Rows of scored events in [from_ms, to_ms)."""
    at_ms = np.asarray(columns[TIME])
    chosen = np.asarray(columns[KIND]) == 0
    if from_ms is not None:
        chosen &= at_ms >= from_ms
    if to_ms is not None:
        chosen &= at_ms < to_ms
    return np.flatnonzero(chosen)


def _first_of_each(ids: NDArray[np.int64], action: NDArray[Any]) -> NDArray[np.int64]:
    """One row of each event, in the order given; one that was decided live before one that was not."""
    order = np.lexsort((np.arange(len(ids)), action == UNDECIDED, ids))
    sorted_ids = ids[order]
    first = np.append(True, sorted_ids[1:] != sorted_ids[:-1])[: len(order)]
    return np.sort(order[first])


def _hashes(columns: Columns) -> NDArray[np.int64]:
    ids: Any = columns[ID]
    assert isinstance(ids, Text)
    return ids.hashes()
