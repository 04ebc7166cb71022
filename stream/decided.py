"""What was decided on events, row by row, and what the bundles say that decide nothing.

The champion decides on all of them, the canary overrules it on its share. What the others say goes to `shadow`, one
message an event: a pure function of log, plan and roster, like the score itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any

import msgspec
import numpy as np

from riskflow.columns import F8, I8, Columns
from riskflow.evaluate import ID, TIME
from riskflow.policy import ACTIONS
from riskflow.scoring import Scored
from stream.swap import Live

_AFTER_DECISION = np.array([b',"action":"%b"},"others":[' % action.encode() for action in ACTIONS], object)


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
) -> list[tuple[bytes, bytes] | None]:
    """(key, JSON) of each event: what was decided, and what each of the others said, in their order.

    None where nobody else spoke, or nothing was decided. Text is made column by column and joined once an event: a
    Python object for each opinion would take longer than the models.
    """
    ids: Any = events[ID]
    spoken = np.zeros(len(decided.score), np.bool_)
    pieces: list[Iterable[bytes]] = [*_decided(ids, events[TIME], decided)]
    for opinion in opinions:
        pieces += _said(opinion, spoken)
        spoken[opinion.rows] = True  # None: of all events
    messages = zip(ids.values(), map(b"".join, zip(*pieces, repeat(b"]}"), strict=False)), strict=True)
    silent = np.isnan(decided.score) | ~spoken
    return [None if no else message for no, message in zip(silent.tolist(), messages, strict=True)]


def _decided(ids: Any, times: Any, decided: Decided) -> tuple[Iterable[bytes], ...]:
    """The pieces of a message before what others said; each is a column."""
    return (
        repeat(b'{"event_id":'), ids.json(), repeat(b',"occurred_at":'), _numbers(times),
        repeat(b',"decided":{"bundle":'), _numbers(decided.bundle), repeat(b',"score":'), _numbers(decided.score),
        _AFTER_DECISION[decided.action].tolist(),
    )  # fmt: skip


def _said(opinion: Opinion, spoken: Any) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """What it says of each event, in three pieces, all empty where it says nothing; null: no score was worked out.

    spoken: where somebody has spoken before, so that a comma is due.
    """
    before, after = _around_score(opinion.alias, opinion.version, opinion.band_names)
    start = before[spoken.view(np.int8)]
    score = _numbers(opinion.score)
    end = after[opinion.band.astype(np.int64) * len(ACTIONS) + opinion.action]
    if opinion.rows is None:
        return start.tolist(), score, end.tolist()
    pieces = np.full((3, len(spoken)), b"", object)
    pieces[:, opinion.rows] = start[opinion.rows], score, end
    return pieces[0].tolist(), pieces[1].tolist(), pieces[2].tolist()


@lru_cache(maxsize=64)
def _around_score(alias: str, version: int, band_names: tuple[str, ...]) -> tuple[Any, Any]:
    """What stands before a score, alone and with a comma; and after it, for each band and action."""
    start = msgspec.json.encode({"alias": alias, "bundle": version})[:-1] + b',"score":'
    ends = [b"," + msgspec.json.encode({"band": band, "action": a})[1:] for band in band_names for a in ACTIONS]
    return np.array([start, b"," + start], object), np.array(ends, object)


def _numbers(column: F8 | I8) -> list[bytes]:
    """Each number as JSON; null for NaN."""
    return msgspec.json.encode(column.tolist())[1:-1].split(b",") if len(column) else []
