"""What was decided on events, row by row, and what the bundles say that decide nothing.

The champion decides on all of them, the canary overrules it on its share. What the others say goes to `shadow`, one
message an event: a pure function of log, plan and roster, like the score itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from riskflow.columns import F8, I8, Columns
from riskflow.evaluate import ID, TIME
from riskflow.policy import ACTIONS
from riskflow.scoring import Scored
from stream.swap import Live


class Decided:
    """One value for each event. `messages` holds (key, JSON) of each score; None where there is none."""

    def __init__(self, live: Live, scored: Scored) -> None:
        self.score, self.action = scored.score.copy(), scored.action.copy()
        self.bundle: I8 = np.full(len(scored.score), live.version, np.int64)
        self.outputs = {name: output.copy() for name, output in scored.outputs.items()}

    def overrule(self, rows: I8, live: Live, scored: Scored) -> None:
        """Another bundle has decided on these rows."""
        self.score[rows], self.action[rows], self.bundle[rows] = scored.score, scored.action, live.version
        for name in {*self.outputs, *scored.outputs}:
            output = self.outputs.setdefault(name, np.full(len(self.score), np.nan))
            output[rows] = scored.outputs.get(name, np.nan)

    def full(self, name: str, events: Any, rows: int) -> F8:
        """A model's output, or the score, as a column of all rows; NaN for those that are no events."""
        values = np.full(rows, np.nan)
        values[events] = self.score if name == "_score" else self.outputs.get(name, np.nan)
        return values


@dataclass(frozen=True)
class Opinion:
    """What a bundle says of these events, and decides nothing. `rows`: where they stand among all; None: all."""

    alias: str
    version: int
    score: F8
    band: Any
    action: Any
    band_names: tuple[str, ...]
    rows: I8 | None = None

    @classmethod
    def of(cls, alias: str, live: Live, scored: Scored, rows: I8 | None = None) -> Opinion:
        """rows: those of the scored ones that are meant."""
        mine = slice(None) if rows is None else rows
        return cls(
            alias, live.version, scored.score[mine], scored.band[mine], scored.action[mine], scored.band_names, rows
        )


class Said(msgspec.Struct):
    """One opinion as it stands on the topic; no score: it could not be worked out."""

    alias: str
    bundle: int
    score: float | None
    band: str
    action: str


class ByWhom(msgspec.Struct):
    bundle: int
    score: float
    action: str


class Message(msgspec.Struct):
    """What was decided on an event, and what each of the others said."""

    event_id: str
    occurred_at: int
    decided: ByWhom
    others: list[Said]


def opinion_messages(
    events: Columns, decided: Decided, opinions: Sequence[Opinion]
) -> Iterator[tuple[bytes, bytes] | None]:
    """(key, JSON) of each event; None where nobody else spoke, or nothing was decided."""
    others: list[list[Said]] = [[] for _ in range(len(decided.score))]
    for opinion in opinions:
        rows = range(len(others)) if opinion.rows is None else opinion.rows.tolist()
        for row, said in zip(rows, _said(opinion), strict=True):
            others[row].append(said)
    ids: Any = events[ID]
    times: Any = events[TIME]
    encode = msgspec.json.Encoder().encode
    rows_of = zip(
        ids.strings(), times.tolist(), decided.bundle.tolist(), decided.score.tolist(), decided.action.tolist(), others,
        strict=True,
    )  # fmt: skip
    for name, at_ms, bundle, score, action, mine in rows_of:
        if score != score or not mine:
            yield None
        else:
            yield name.encode(), encode(Message(name, at_ms, ByWhom(bundle, score, ACTIONS[action]), mine))


def _said(opinion: Opinion) -> Iterator[Said]:
    columns = (opinion.score.tolist(), opinion.band.tolist(), opinion.action.tolist())
    for score, band, action in zip(*columns, strict=True):
        known = score if score == score else None
        yield Said(opinion.alias, opinion.version, known, opinion.band_names[band], ACTIONS[action])
