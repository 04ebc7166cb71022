"""The bundles of a roster at work on the events of one pass: who decides, and what the others say.

What fails beside the champion leaves the roster, by a commit of its own before anything leaves that was made without
it. So decisions go on, and what a successor sends again is made by the same bundles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from riskflow.canary import in_share, salt
from riskflow.columns import I8, Columns, n_rows, take
from riskflow.moves import CHAMPION
from riskflow.plan import Plan
from riskflow.scoring import Scored, Shared
from stream import head, metrics
from stream.decided import Decided, Opinion
from stream.head import Head
from stream.roster import Pin, Roster
from stream.swap import Live, Swap

Messages = Callable[[Columns, Scored, Live, Any], Iterator[tuple[bytes, bytes] | None]]


class Team:
    """Of partitions whose heads pin the same members."""

    def __init__(self, plan: Plan, swap: Swap, heads: Sequence[Head], roster: Roster) -> None:
        self.plan, self.swap, self.heads, self.roster = plan, swap, heads, roster
        self._shared = Shared()
        self._overruled: I8 = np.zeros(0, np.int64)
        self.champion: tuple[Live, Scored]  # and what it says of all events; once they are decided

    async def decide(self, events: Columns, messages: Messages) -> tuple[Decided, list[tuple[bytes, bytes] | None]]:
        """What was decided, and the message of each; `messages` makes them of what one bundle decided."""
        canary = await self._canary(events, messages)
        live = await self.swap.pinned(self.roster.champion)
        scored = live.scorer.score(events, self._shared)
        self.champion = live, scored
        decided = Decided(live, scored)
        if canary is None:
            return decided, list(messages(events, scored, live, None))
        rows, by, found, sent = canary
        mine = np.ones(n_rows(events), np.bool_)
        mine[rows] = False
        out = list(messages(events, scored, live, mine))
        for row, message in zip(rows.tolist(), sent, strict=True):
            out[row] = message
        decided.overrule(rows, by, found)
        self._overruled = rows
        return decided, out

    async def opinions(self, events: Columns) -> list[Opinion]:
        """What the champion says where the canary decided, and what challengers and shadows say of every event."""
        out = []
        if len(self._overruled):
            live, scored = self.champion
            out.append(Opinion.of(CHAMPION, live, scored, self._overruled))
        found = await self._scored(events)
        await self._leave_out({pin: said for pin, said in found.items() if isinstance(said, Exception)})
        for pin, said in found.items():
            if not isinstance(said, Exception):
                out.append(Opinion.of(pin.alias, *said))
        for opinion in out:
            metrics.OPINIONS.labels(self.plan.name, opinion.alias).inc(len(opinion.score))
        return out

    async def _canary(self, events: Columns, messages: Messages) -> tuple[I8, Live, Scored, list[Any]] | None:
        """Rows that the canary decides, and what it made of them."""
        pin = self.roster.canary
        if pin is None:
            return None
        ids: Any = events[self.plan.entities[0]]
        rows = np.flatnonzero(in_share(ids, pin.share or 0.0, salt(self.plan.name, pin.hash)))
        if not len(rows):
            return None
        try:
            live = await self.swap.pinned(pin)
            rows, scored = _answered(live, events, rows)
            return rows, live, scored, list(messages(take(events, rows), scored, live, None))
        except Exception as error:  # whatever it is, the champion decides
            await self._leave_out({pin: error})
            return None

    async def _scored(self, events: Columns) -> dict[Pin, tuple[Live, Scored] | Exception]:
        found: dict[Pin, tuple[Live, Scored] | Exception] = {}
        for pin in self.roster.others:
            found[pin] = self._score(await self._loaded(pin), events)
            await asyncio.sleep(0)  # what else the worker does waits for one model, not for all
        return found

    async def _loaded(self, pin: Pin) -> Live | Exception:
        try:
            return await self.swap.pinned(pin)
        except Exception as error:  # it was there when the roster was pinned
            return error

    def _score(self, live: Live | Exception, events: Columns) -> tuple[Live, Scored] | Exception:
        if isinstance(live, Exception):
            return live
        try:
            return live, live.scorer.score(events, self._shared)
        except Exception as error:  # whatever it is, decisions go on
            return error

    async def _leave_out(self, failed: Mapping[Pin, Exception]) -> None:
        """Nobody scores with these from here on; the heads say so before anything is sent."""
        if not failed:
            return
        for pin, error in failed.items():
            self.swap.leave_out(pin, f"it failed while it scored: {error!r}")
        self.roster = self.roster.only(lambda pin: pin not in failed)
        await head.commit([head.Commit(h, h.position, roster=self.roster.stored(h.position)) for h in self.heads])


def _answered(live: Live, events: Columns, rows: I8) -> tuple[I8, Scored]:
    """Those of the rows that the bundle has a score for, and what it says of them."""
    scored = live.scorer.score(take(events, rows))
    known = ~np.isnan(scored.score)
    return (rows, scored) if known.all() else (rows[known], live.scorer.score(take(events, rows[known])))
