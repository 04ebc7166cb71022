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
    others: list[list[bytes]] = [[] for _ in range(len(decided.score))]
    for opinion in opinions:
        rows = range(len(others)) if opinion.rows is None else opinion.rows.tolist()
        for row, said in zip(rows, _said(opinion), strict=True):
            others[row].append(said)
    ids: Any = events[ID]
    times: Any = events[TIME]
    text = b'{"event_id":%b,"occurred_at":%d,"decided":{"bundle":%d,"score":%b,"action":"%b"},"others":[%b]}'
    actions = [action.encode() for action in ACTIONS]
    encode = msgspec.json.Encoder().encode
    columns = ids.strings(), times.tolist(), decided.bundle.tolist(), _numbers(decided.score), decided.action.tolist()
    rows_of = zip(*columns, others, strict=True)
    for name, at_ms, bundle, score, action, mine in rows_of:
        if score == NO_SCORE or not mine:
            yield None
        else:
            yield name.encode(), text % (encode(name), at_ms, bundle, score, actions[action], b",".join(mine))


def _said(opinion: Opinion) -> Iterator[bytes]:
    """Each opinion as JSON; the score is null where it could not be worked out."""
    names = {"alias": opinion.alias, "bundle": opinion.version}
    before = msgspec.json.encode(names)[:-1] + b',"score":'
    after = [
        [b"," + msgspec.json.encode({"band": band, "action": action})[1:] for action in ACTIONS]
        for band in opinion.band_names
    ]
    for score, band, action in zip(
        _numbers(opinion.score), opinion.band.tolist(), opinion.action.tolist(), strict=True
    ):
        yield before + score + after[band][action]


def _numbers(column: F8) -> list[bytes]:
    """Each number as JSON."""
    return msgspec.json.encode(column.tolist())[1:-1].split(b",") if len(column) else []
