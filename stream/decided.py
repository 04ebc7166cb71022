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

NO_SCORE = b"null"  # how JSON says NaN


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


def opinion_messages(
    events: Columns, decided: Decided, opinions: Sequence[Opinion]
) -> Iterator[tuple[bytes, bytes] | None]:
    """(key, JSON) of each event: what was decided, and what each of the others said, in their order.

    None where nobody else spoke, or nothing was decided. Columns become text at once: a Python object for each
    opinion would take longer than the models.
    """
    rows = len(decided.score)
    said = zip(*(_said(opinion, rows) for opinion in opinions), strict=True)
    others = [b",".join(filter(None, each)) for each in said] or [b""] * rows
    ids: Any = events[ID]
    times: Any = events[TIME]
    text = b'{"event_id":%b,"occurred_at":%d,"decided":{"bundle":%d,"score":%b,"action":"%b"},"others":[%b]}'
    actions = np.array([action.encode() for action in ACTIONS], object)[decided.action].tolist()
    content = zip(
        ids.json(), times.tolist(), decided.bundle.tolist(), _numbers(decided.score), actions, others, strict=True
    )
    for name, row in zip(ids.values(), content, strict=True):
        yield None if row[3] == NO_SCORE or not row[5] else (name, text % row)


def _said(opinion: Opinion, rows: int) -> list[bytes]:
    """What it says of each of these rows as JSON, empty where it says nothing; null: no score could be worked out."""
    before = msgspec.json.encode({"alias": opinion.alias, "bundle": opinion.version})[:-1] + b',"score":'
    after = np.array(
        [b"," + msgspec.json.encode({"band": band, "action": a})[1:] for band in opinion.band_names for a in ACTIONS],
        object,
    )
    which = after[opinion.band.astype(np.int64) * len(ACTIONS) + opinion.action]
    said = [before + score + rest for score, rest in zip(_numbers(opinion.score), which.tolist(), strict=True)]
    if opinion.rows is None:
        return said
    every = [b""] * rows
    for row, own in zip(opinion.rows.tolist(), said, strict=True):
        every[row] = own
    return every


def _numbers(column: F8) -> list[bytes]:
    """Each number as JSON."""
    return msgspec.json.encode(column.tolist())[1:-1].split(b",") if len(column) else []
