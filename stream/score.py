"""The last entity's stage: models, policy, one score for each event, full rows to the training log.

The bundle that outputs are made with is pinned in the head ("from position X on, roster R") by a commit of its own
before the first output leaves, and never changes where outputs of the old one may have left already.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import structlog

from riskflow.columns import Columns, n_rows, take
from riskflow.errors import BundleRefused
from riskflow.evaluate import DEGRADED, ID, KIND, TIME
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.policy import ACTIONS
from riskflow.registry import CHAMPION
from riskflow.scoring import Scored
from riskflow.state import HELD, INTAKE_LOG, INTAKE_PARTITION, ROW_BITS, log_columns, source_name
from stream import blocks, head, metrics
from stream.batch import Batch, Sent
from stream.drift import Drift
from stream.entity import reject_row
from stream.faults import reached, scores_sent
from stream.head import Head
from stream.outbox import Headers, Outbox
from stream.swap import Live, Swap

ROWS_SOURCE, HELD_SOURCE = "rows", "held"
log = structlog.get_logger(__name__)


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


class Score:
    """Scores what the last entity has observed. Labels and other feeds end here, in `rows`, without a score."""

    topic = ""

    def __init__(
        self,
        plan: Plan,
        names: Names,
        swap: Swap,
        worker: str,
        *,
        scores_partitions: int,
        rows_partitions: int,
        drift: Drift | None = None,
    ) -> None:
        self.plan, self.names, self.swap, self.worker, self.drift = plan, names, swap, worker, drift
        self._scores_partitions, self._rows_partitions = scores_partitions, rows_partitions
        self._stage = plan.stages[-1].entity.field
        self._by, self._part = log_columns(self._stage)
        self._logs = [log_columns(s.entity.field) for s in plan.stages]

    async def ready(self, work: Sequence[Batch]) -> None:
        """Waits for a bundle; pins a new one in the heads where that is safe."""
        if not self.swap.found and await self._all_pinned(work):
            return  # the champion cannot be used, and none was before: what the heads say is
        newest = await self.swap.newest()
        pins = [b.head for b in work if await self._may_pin(b.head, newest)]
        if not pins:
            return
        reached("before_swap")
        rosters = [{CHAMPION: newest.pin, "from": h.position} for h in pins]
        await head.commit([head.Commit(h, h.position, roster=r) for h, r in zip(pins, rosters, strict=True)])
        reached("during_swap")

    async def _may_pin(self, of: Head, newest: Live) -> bool:
        pinned = of.roster.get(CHAMPION)
        if pinned is None:
            return True
        return newest.number > pinned["number"] and (of.position >= of.fence or not await self._usable(pinned))

    async def _all_pinned(self, work: Sequence[Batch]) -> bool:
        pins = [b.head.roster.get(CHAMPION) for b in work]
        return all([pin is not None and await self._usable(pin) for pin in pins])

    async def _usable(self, pin: Any) -> bool:
        """Whether the pinned bundle can still be loaded; if not, a newer champion takes over before the fence."""
        try:
            await self.swap.pinned(pin)
        except BundleRefused as error:
            log.error("the pinned bundle cannot be used, a newer one takes over", why=str(error))
            return False
        return True

    async def send(self, work: Sequence[Batch], columns: Columns, sent: Sent, outbox: Outbox) -> None:
        """Scores and rows; partitions that pin the same bundle are scored together."""
        columns = await self._send_held([b.head for b in work], columns, sent, outbox)
        if not n_rows(columns):
            return
        by_bundle: dict[str, list[Head]] = {}
        for batch in work:
            by_bundle.setdefault(batch.head.roster[CHAMPION]["hash"], []).append(batch.head)
        part: Any = columns[self._part]
        for heads in by_bundle.values():
            live = await self.swap.pinned(heads[0].roster[CHAMPION])
            rows = np.flatnonzero(np.isin(part, [h.partition for h in heads])) if len(by_bundle) > 1 else None
            if rows is None or len(rows):
                await self._send(heads, columns if rows is None else take(columns, rows), live, sent, outbox)

    async def _send_held(self, heads: list[Head], columns: Columns, sent: Sent, outbox: Outbox) -> Columns:
        """Rows that another generation scores are kept, and that is all. Returns the others."""
        held: Any = columns.pop(HELD, None)
        if held is None:
            return columns
        rows = np.flatnonzero(held)
        if len(rows):
            await self._send_rows(heads, take(columns, rows), sent, outbox, self.names.held)
        return take(columns, np.flatnonzero(held == 0))

    async def _send(self, heads: list[Head], columns: Columns, live: Live, sent: Sent, outbox: Outbox) -> None:
        kinds: Any = columns[KIND]
        events = np.flatnonzero(kinds == 0)
        scored: Scored | None = None
        if len(events):
            part = columns if len(events) == len(kinds) else take(columns, events)
            scored = live.scorer.score(part)
            await self._send_scores(heads, part, scored, live, outbox)
            if self.drift is not None:
                self.drift.observe(live, part, scored)
        full = {**columns, **self._outputs(n_rows(columns), events, scored, live)}
        await self._send_rows(heads, full, sent, outbox, self.names.rows)

    def _by_head(self, heads: list[Head], columns: Columns) -> Iterator[tuple[Head, Any]]:
        """Each head with its rows; None: all of them."""
        part: Any = columns[self._part]
        for of in heads:
            rows = np.flatnonzero(part == of.partition)
            if len(rows):
                yield of, None if len(rows) == len(part) else rows

    async def _send_scores(
        self, heads: list[Head], events: Columns, scored: Scored, live: Live, outbox: Outbox
    ) -> None:
        for row in np.flatnonzero(np.isnan(scored.score)):
            degraded: Any = events[DEGRADED]
            detail = f"no score could be worked out; degraded: {degraded.strings()[row] or 'nothing'}"
            reject_row(self.plan, self.names, events, int(row), "no_score", detail, "score", outbox)
        messages = list(self._messages(events, scored, live))
        metrics_of = metrics.EVENTS_SCORED.labels
        for action, count in zip(*np.unique(scored.action, return_counts=True), strict=True):
            metrics_of(self.plan.name, ACTIONS[action]).inc(int(count))
        for of, rows in self._by_head(heads, events):
            chosen = messages if rows is None else [messages[i] for i in rows.tolist()]
            records = [m for m in chosen if m is not None]
            await outbox.send(self.names.scores, of.partition % self._scores_partitions, records, self._headers(of))
        scores_sent()

    def _messages(self, events: Columns, scored: Scored, live: Live) -> Iterator[tuple[bytes, bytes] | None]:
        """(key, JSON) of each score: a pure function of log, plan and roster. None where there is no score."""
        ids: Any = events[ID]
        times: Any = events[TIME]
        degraded: Any = events[DEGRADED]
        reasons = dict(zip(scored.flagged.tolist(), scored.reasons(), strict=True))
        bands = [*scored.band_names]
        encode = msgspec.json.Encoder().encode
        rows = zip(
            ids.strings(), times.tolist(), scored.score.tolist(), scored.band.tolist(), scored.action.tolist(),
            degraded.strings(), self._positions(events), strict=True,
        )  # fmt: skip
        for i, (name, at_ms, score, band, action, broken, positions) in enumerate(rows):
            if score != score:
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
        to = {p: p % self._rows_partitions for p in of}
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

    def _outputs(self, n: int, events: Any, scored: Scored | None, live: Live) -> Columns:
        out: Columns = {}
        for name in (*self.plan.models, "_score"):
            values = np.full(n, np.nan)
            if scored is not None:
                values[events] = scored.score if name == "_score" else scored.outputs.get(name, np.nan)
            out[name] = values
        actions = np.full(n, -1, np.int8)
        if scored is not None:
            actions[events] = scored.action
        out["_action"] = actions
        out["_bundle"] = np.full(n, live.version, np.int64)
        return out
