"""The last entity's stage: models, policy, one score for each event, full rows to the training log.

The roster of bundles that outputs are made with is pinned in the head ("from position X on, roster R") by a commit of
its own before the first output leaves, and never changes where outputs of the old one may have left already.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from riskflow.columns import Columns, n_rows, take
from riskflow.evaluate import DEGRADED, ID, KIND, TIME
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.policy import ACTIONS
from riskflow.scoring import Scored
from riskflow.state import HELD, INTAKE_LOG, INTAKE_PARTITION, ROW_BITS, log_columns, source_name
from stream import blocks, head, metrics
from stream.batch import Batch, Sent
from stream.decided import Decided, opinion_messages
from stream.drift import Drift
from stream.entity import reject_row
from stream.faults import reached, scores_sent
from stream.head import Head
from stream.outbox import Headers, Outbox
from stream.roster import Roster
from stream.swap import Live, Swap
from stream.team import Team

ROWS_SOURCE, HELD_SOURCE = "rows", "held"
Messages = list[tuple[bytes, bytes] | None]


class Message(msgspec.Struct):
    """A score as it stands on its topic."""

    event_id: str
    score: float
    band: str
    action: str
    reasons: list[str]
    bundle: int
    degraded: list[str]
    occurred_at: int
    positions: msgspec.Raw


@dataclass(frozen=True)
class Partitions:
    """How many there are of each topic that scores go to."""

    scores: int
    shadow: int
    rows: int


class Score:
    """Scores what the last entity has observed. Labels and other feeds end here, in `rows`, without a score."""

    topic = ""

    def __init__(
        self,
        plan: Plan,
        names: Names,
        swap: Swap,
        worker: str,
        partitions: Partitions,
        drift: Drift | None = None,
    ) -> None:
        self.plan, self.names, self.swap, self.worker, self.drift = plan, names, swap, worker, drift
        self._partitions = partitions
        self._stage = plan.stages[-1].entity.field
        self._by, self._part = log_columns(self._stage)
        self._logs = [log_columns(s.entity.field) for s in plan.stages]

    async def ready(self, work: Sequence[Batch]) -> None:
        """Waits for a bundle; pins a new roster in the heads where that is safe."""
        newest = await self._newest(work)
        wanted = [(b.head, roster) for b in work if (roster := await self._wanted(b.head, newest)) is not None]
        if not wanted:
            return
        reached("before_swap")
        await head.commit([head.Commit(h, h.position, roster=r.stored(h.position)) for h, r in wanted])
        reached("during_swap")

    async def _newest(self, work: Sequence[Batch]) -> Roster | None:
        """What the registry says; None where its champion cannot be used, and what the heads say is."""
        if not self.swap.found and await self._all_usable(work):
            return None
        return await self.swap.newest()

    async def _all_usable(self, work: Sequence[Batch]) -> bool:
        pinned = [Roster.read(b.head.roster) for b in work]
        return all([roster is not None and await self.swap.usable(roster) is not None for roster in pinned])

    async def _wanted(self, of: Head, newest: Roster | None) -> Roster | None:
        """The roster to pin now; None where the pinned one stays.

        Before the fence outputs of the pinned one may have left: only what cannot be used any more goes from it.
        """
        pinned = Roster.read(of.roster)
        if pinned is None:
            return newest
        new = newest is not None and newest.replaces(pinned)
        if new and of.position >= of.fence:
            return newest
        usable = await self.swap.usable(pinned)
        if usable is None:
            return newest if new else None
        return usable if usable.members != pinned.members else None

    async def send(self, work: Sequence[Batch], columns: Columns, sent: Sent, outbox: Outbox) -> None:
        """Scores and rows; partitions that pin the same bundles are scored together."""
        columns = await self._send_held([b.head for b in work], columns, sent, outbox)
        if not n_rows(columns):
            return
        together: dict[Any, list[Head]] = {}
        rosters: dict[Any, Roster] = {}
        for batch in work:
            roster = _pinned(batch.head)
            rosters[roster.members] = roster
            together.setdefault(roster.members, []).append(batch.head)
        part: Any = columns[self._part]
        for members, heads in together.items():
            rows = np.flatnonzero(np.isin(part, [h.partition for h in heads])) if len(together) > 1 else None
            if rows is None or len(rows):
                mine = columns if rows is None else take(columns, rows)
                await self._send(heads, mine, rosters[members], sent, outbox)

    async def _send_held(self, heads: list[Head], columns: Columns, sent: Sent, outbox: Outbox) -> Columns:
        """Rows that another generation scores are kept, and that is all. Returns the others."""
        held: Any = columns.pop(HELD, None)
        if held is None:
            return columns
        rows = np.flatnonzero(held)
        if len(rows):
            await self._send_rows(heads, take(columns, rows), sent, outbox, self.names.held)
        return take(columns, np.flatnonzero(held == 0))

    async def _send(self, heads: list[Head], columns: Columns, roster: Roster, sent: Sent, outbox: Outbox) -> None:
        """Decisions leave first; what others say of the same events comes when nothing waits for it any more."""
        kinds: Any = columns[KIND]
        events = np.flatnonzero(kinds == 0)
        if not len(events):
            await self._send_rows(heads, self._full(columns, events, None, roster), sent, outbox, self.names.rows)
            return
        part = columns if len(events) == len(kinds) else take(columns, events)
        team = Team(self.plan, self.swap, heads, roster)
        decided, messages = await team.decide(part, self._messages)
        await self._send_scores(heads, part, decided, messages, outbox)
        if self.drift is not None:
            live, scored = team.champion
            self.drift.observe(live, part, scored)
        await self._send_rows(heads, self._full(columns, events, decided, roster), sent, outbox, self.names.rows)
        opinions = await team.opinions(part)
        if opinions:
            said = opinion_messages(part, decided, opinions)
            await self._send_messages(heads, part, said, self.names.shadow, self._partitions.shadow, outbox)

    def _by_head(self, heads: list[Head], columns: Columns) -> Iterator[tuple[Head, Any]]:
        """Each head with its rows; None: all of them."""
        part: Any = columns[self._part]
        for of in heads:
            rows = np.flatnonzero(part == of.partition)
            if len(rows):
                yield of, None if len(rows) == len(part) else rows

    async def _send_scores(
        self, heads: list[Head], events: Columns, decided: Decided, messages: Messages, outbox: Outbox
    ) -> None:
        for row in np.flatnonzero(np.isnan(decided.score)):
            degraded: Any = events[DEGRADED]
            detail = f"no score could be worked out; degraded: {degraded.strings()[row] or 'nothing'}"
            reject_row(self.plan, self.names, events, int(row), "no_score", detail, "score", outbox)
        metrics_of = metrics.EVENTS_SCORED.labels
        for action, count in zip(*np.unique(decided.action, return_counts=True), strict=True):
            metrics_of(self.plan.name, ACTIONS[action]).inc(int(count))
        await self._send_messages(heads, events, messages, self.names.scores, self._partitions.scores, outbox)
        scores_sent()

    async def _send_messages(
        self, heads: list[Head], events: Columns, messages: Messages, topic: str, partitions: int, outbox: Outbox
    ) -> None:
        for of, rows in self._by_head(heads, events):
            chosen = messages if rows is None else [messages[i] for i in rows.tolist()]
            records = [m for m in chosen if m is not None]
            await outbox.send(topic, of.partition % partitions, records, self._headers(of))

    def _messages(self, events: Columns, scored: Scored, live: Live, mine: Any) -> Iterator[tuple[bytes, bytes] | None]:
        """(key, JSON) of each score: a pure function of log, plan and roster. None where there is no score.

        mine: which of the events this bundle decides; None: all.
        """
        ids: Any = events[ID]
        times: Any = events[TIME]
        degraded: Any = events[DEGRADED]
        flagged = scored.flagged if mine is None else scored.flagged[mine[scored.flagged]]
        reasons = dict(zip(flagged.tolist(), scored.reasons(flagged), strict=True))
        wanted = [True] * len(scored.score) if mine is None else mine.tolist()
        bands = [*scored.band_names]
        encode = msgspec.json.Encoder().encode
        rows = zip(
            ids.strings(), times.tolist(), scored.score.tolist(), scored.band.tolist(), scored.action.tolist(),
            degraded.strings(), self._positions(events), wanted, strict=True,
        )  # fmt: skip
        for i, (name, at_ms, score, band, action, broken, positions, decides) in enumerate(rows):
            if score != score or not decides:
                yield None
                continue
            yield name.encode(), encode(Message(
                name, score, bands[band], ACTIONS[action], reasons.get(i, []), live.version,
                broken.split(",") if broken else [], at_ms, msgspec.Raw(positions),
            ))  # fmt: skip

    def _positions(self, events: Columns) -> Iterator[bytes]:
        """Where each row stands in every stage's log, as partition/offset/row; JSON."""
        named: list[tuple[str, Any, Any]] = [(self.plan.scored.name, events[INTAKE_PARTITION], events[INTAKE_LOG])]
        named += [
            (s.entity.field, events[part], events[log])
            for s, (log, part) in zip(self.plan.stages, self._logs, strict=True)
        ]
        text = b"{" + b",".join(b'"%s":"%%d/%%d/%%d"' % name.encode() for name, _, _ in named) + b"}"
        within = (1 << ROW_BITS) - 1
        numbers = [c.tolist() for _, part, log in named for c in (part, log >> ROW_BITS, log & within)]
        return map(text.__mod__, zip(*numbers, strict=True))

    def _headers(self, of: Head) -> Headers:
        """What is not a pure function of the log stands in headers."""
        decided = str(int(time.time() * 1000)).encode()
        return [("decided-at", decided), ("epoch", str(of.epoch).encode()), ("worker", self.worker.encode())]

    async def _send_rows(self, heads: list[Head], full: Columns, sent: Sent, outbox: Outbox, topic: str) -> None:
        part: Any = full[self._part]
        bounds = [0, *(np.flatnonzero(part[1:] != part[:-1]) + 1).tolist(), len(part)]
        of = {h.partition: h for h in heads}
        to = {p: p % self._partitions.rows for p in of}
        name = ROWS_SOURCE if topic == self.names.rows else HELD_SOURCE
        sources = []
        for first, end in pairwise(bounds):
            p = int(part[first])
            after = sent[p].get(source_name(name, to[p]), -1)
            sources.append(blocks.Source(self._stage, p, after, first, end))
        epochs = [of[s.partition].epoch for s in sources]
        parts = blocks.cut(full, [[s] for s in sources], by=self._by, epochs=epochs)
        for source, mine in zip(sources, parts, strict=True):
            p = source.partition
            await outbox.send(topic, to[p], [(None, block) for block in mine])
            sent[p][source_name(name, to[p])] = source.after

    def _full(self, columns: Columns, events: Any, decided: Decided | None, roster: Roster) -> Columns:
        """The rows with what the models made of them; those that are no events bear the champion's number."""
        n = n_rows(columns)
        out = dict(columns)
        actions, bundle = np.full(n, -1, np.int8), np.full(n, roster.champion.version, np.int64)
        for name in (*self.plan.models, "_score"):
            out[name] = np.full(n, np.nan) if decided is None else decided.full(name, events, n)
        if decided is not None:
            actions[events], bundle[events] = decided.action, decided.bundle
        return {**out, "_action": actions, "_bundle": bundle}


def _pinned(of: Head) -> Roster:
    roster = Roster.read(of.roster)
    assert roster is not None, "ready pins one"
    return roster
