"""What past events turned out to be, and how many each stands for: the one place that says so.

Training, races, backtests and measured quality ask here, so that they take the same events for the same. An event is
*known* when it is old enough for its labels (`maturity`) and, without a label, when silence about it means something:

- nobody hears whether it was right to decline an event, so a declined one without a label is unknown, whoever declined
  it; those that were let through stand for it (batch/let_through.py);
- where only sampled events are learned from, the others are unknown (batch/review_sample.py).

"Now" is the newest archived row of any feed: so far the archive has heard of everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batch import let_through, review_sample
from batch.lake import Seen
from batch.training_set import SAMPLED, WEIGHTED, Labels, Terms, resolve_labels
from riskflow.columns import F8, I8, Columns, Text
from riskflow.evaluate import ID, TIME

if TYPE_CHECKING:
    from batch.run import Run


@dataclass(frozen=True)
class Truth:
    """Of each event: whether it was fraud (1 or 0), and how many events it stands for, 0 where that is unknown."""

    fraud: F8
    weight: F8

    @property
    def known(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.weight > 0
        return found


def terms_of(run: Run, columns: Columns) -> Terms:
    """The newest rows that had time to get their label, by pipeline.yaml. columns: rows of all feeds."""
    newest = int(np.asarray(columns[TIME]).max())
    until, file = mature_before_ms(run, newest), run.pipeline.file
    return Terms(
        until - run.pipeline.span_ms, until, newest + 1, tuple(file.label_sources), file.declined, file.review.learn
    )  # fmt: skip


def mature_before_ms(run: Run, newest_ms: int) -> int:
    """Events before this had time to get their label. newest_ms: of the newest archived row, whatever its feed."""
    return newest_ms - run.pipeline.maturity_ms + 1


def truth(run: Run, whole: Columns, rows: I8) -> Truth:
    """Of some rows of `whole`, which holds those of all feeds."""
    terms = terms_of(run, whole)
    labels = resolve_labels(run.plan, whole, terms.label_sources, terms.known_before_ms)
    ids: Any = whole[ID]
    assert isinstance(ids, Text)
    return truth_of(run, ids.hashes()[rows], np.asarray(whole[TIME])[rows], labels, terms)


def truth_of(run: Run, events: I8, at_ms: I8, labels: Labels, terms: Terms, seen: Seen | None = None) -> Truth:
    """Of these events, by the hashes of their ids. seen: of the lake as it was."""
    said = labels.of(events, np.nan)
    weight = (at_ms < terms.until_ms).astype(np.float64)
    if terms.declined == WEIGHTED:
        weight *= let_through.stands_for(events, said, let_through.read_decisions(run, seen))
    if terms.learn == SAMPLED:
        weight *= review_sample.stands_for(events, said, review_sample.read_odds(run, seen))
    return Truth(np.nan_to_num(said), weight)
