"""Whether an event's id means one event, and its labels are about it: checks before anything is learned.

Labels are joined to events by id alone. Where two systems number their events alike, or a file is sent under ids that
were used before, labels of other events become the truth of these, and nothing else would show it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batch.gates.base import Gate
from batch.pipeline_checks import MIXED_UP, Checks, Range
from batch.training_set import TrainingSet, label_feed
from riskflow.columns import Column, Columns, Text
from riskflow.evaluate import ID, KIND, TIME
from riskflow.plan import Plan

NAMES = REUSED, EARLY = MIXED_UP
SHOWN = 5
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


def check_ids(plan: Plan, columns: Columns, data: TrainingSet, checks: Checks) -> list[Gate]:
    """Ids with two contents, and labels that are older than their event.

    columns: rows of all feeds, as they came. data: what is learned from.
    """
    return [_reused(plan, columns, data, checks.reused_ids), _early(plan, columns, data, checks.early_labels)]


def mixed_up(results: Sequence[Gate]) -> dict[str, int]:
    """How many there are of each, for a summary: a few are accepted, and still told."""
    return {r.name: r.evidence["count"] for r in results if r.name in NAMES}


def _reused(plan: Plan, columns: Columns, data: TrainingSet, accepted: Range) -> Gate:
    ids = _text(columns[ID])
    hashes = ids.hashes()
    events = np.asarray(columns[KIND]) == 0
    events[events] = np.isin(hashes[events], _text(data.columns[ID]).hashes())
    rows = np.flatnonzero(events)
    rows = rows[np.argsort(hashes[rows], kind="stable")]
    again = hashes[rows[1:]] == hashes[rows[:-1]]
    first, second = rows[:-1][again], rows[1:][again]
    content = [name for name in (TIME, *plan.entities, *plan.scored.types) if name in columns]
    other = np.zeros(len(first), np.bool_)
    for name in content:
        other |= _differ(columns[name], first, second)
    twice = second[other]
    twice = twice[np.unique(hashes[twice], return_index=True)[1]]
    return _counted(REUSED, "event ids stand for two events", ids.take(twice), len(data), accepted)


def _early(plan: Plan, columns: Columns, data: TrainingSet, accepted: Range) -> Gate:
    feed, at_ms = label_feed(plan), np.asarray(columns[TIME])
    labels = np.flatnonzero(np.asarray(columns[KIND]) == plan.kind(feed.name))
    about = _text(columns[str(feed.about)]).take(labels)
    event = _places(_text(data.columns[ID]).hashes(), about.hashes())
    known = np.flatnonzero(event >= 0)
    early = known[at_ms[labels[known]] < data.at_ms[event[known]]]
    return _counted(EARLY, "labels are older than their event", about.take(early), len(known), accepted)


def _places(of: Rows, wanted: Rows) -> Rows:
    """Where each wanted hash stands; -1 where it does not."""
    if not len(of):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(of, kind="stable")
    at = order[np.minimum(np.searchsorted(of[order], wanted), len(of) - 1)]
    return np.where(of[at] == wanted, at, -1)


def _counted(name: str, words: str, wrong: Text, of: int, accepted: Range) -> Gate:
    """A share, with how many that are and examples."""
    share = len(wrong) / max(of, 1)
    examples = wrong.take(np.arange(min(len(wrong), SHOWN))).strings()
    found = f"{share:.6f}"
    if len(wrong):
        found += f" ({len(wrong)} of {of} {words}, such as {examples[0]})"
    evidence = {"count": len(wrong), "of": of, "such_as": examples}
    return Gate(name, accepted.holds(share), found, accepted.words, evidence)


def _differ(column: Column, left: Rows, right: Rows) -> Mask:
    """Where both values are known and not the same; a file may lack a field that messages have."""
    if isinstance(column, Text):
        missing, values = column.missing(), column.hashes()
    else:
        values = column
        missing = np.isnan(values) if values.dtype.kind == "f" else (values < 0 if values.dtype == np.int32 else None)
    unequal: Mask = values[left] != values[right]
    return unequal if missing is None else unequal & ~missing[left] & ~missing[right]


def _text(column: Column) -> Text:
    assert isinstance(column, Text)
    return column
