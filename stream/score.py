"""The last entity's stage: models, policy, one score for each event, full rows to the training log.

The bundle that outputs are made with is pinned in the head ("from position X on, roster R") by a commit of its own
before the first output leaves, and never changes where outputs of the old one may have left already.
"""

from __future__ import annotations

import time
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
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, ROW_BITS, log_columns, source_name
from stream import blocks, metrics
from stream.entity import reject_row
from stream.faults import reached, scores_sent
from stream.head import Head
from stream.outbox import Headers, Outbox
from stream.swap import Live, Swap

ROWS_SOURCE = "rows"
log = structlog.get_logger(__name__)


class Score:
    """Scores what the last entity has observed. Labels and other feeds end here, in `rows`, without a score."""

    def __init__(
        self, plan: Plan, names: Names, swap: Swap, worker: str, *, scores_partitions: int, rows_partitions: int
    ) -> None:
        self.plan, self.names, self.swap, self.worker = plan, names, swap, worker
        self._scores_partitions, self._rows_partitions = scores_partitions, rows_partitions
        self._by = log_columns(plan.stages[-1].entity.field)[0]
        self._logs = [log_columns(s.entity.field) for s in plan.stages]

    async def ready(self, head: Head) -> None:
        """Waits for a bundle; pins a new one in the head where that is safe."""
        newest = await self.swap.newest()
        pinned = head.roster.get(CHAMPION)
        if pinned is not None and newest.number <= pinned["number"]:
            return
        if pinned is not None and head.position < head.fence and await self._usable(pinned):
            return
        reached("before_swap")
        await head.commit(head.position, roster={CHAMPION: newest.pin, "from": head.position})
        reached("during_swap")

    async def _usable(self, pin: Any) -> bool:
        """Whether the pinned bundle can still be loaded; if not, a newer champion takes over before the fence."""
        try:
            await self.swap.pinned(pin)
        except BundleRefused as error:
            log.error("the pinned bundle cannot be used, a newer one takes over", why=str(error))
            return False
        return True

    async def send(self, head: Head, columns: Columns, sent: dict[str, int], outbox: Outbox) -> None:
        live = await self.swap.pinned(head.roster[CHAMPION])
        kinds: Any = columns[KIND]
        events = np.flatnonzero(kinds == 0)
        scored: Scored | None = None
        if len(events):
            part = columns if len(events) == len(kinds) else take(columns, events)
            scored = live.scorer.score(part)
            await self._send_scores(head, part, scored, live, outbox)
        await self._send_rows(head, columns, events, scored, live, sent, outbox)

    async def _send_scores(self, head: Head, events: Columns, scored: Scored, live: Live, outbox: Outbox) -> None:
        for row in np.flatnonzero(np.isnan(scored.score)):
            degraded: Any = events[DEGRADED]
            detail = f"no score could be worked out; degraded: {degraded.strings()[row] or 'nothing'}"
            await reject_row(self.plan, self.names, events, int(row), "no_score", detail, "score", outbox)
        records = list(self._messages(events, scored, live))
        metrics_of = metrics.EVENTS_SCORED.labels
        for action, count in zip(*np.unique(scored.action, return_counts=True), strict=True):
            metrics_of(self.plan.name, ACTIONS[action]).inc(int(count))
        headers = self._headers(head)
        await outbox.send(self.names.scores, head.partition % self._scores_partitions, records, headers)
        scores_sent()

    def _messages(self, events: Columns, scored: Scored, live: Live) -> Any:
        """(key, JSON) of each score: a pure function of log, plan and roster."""
        ids: Any = events[ID]
        times: Any = events[TIME]
        reasons = dict(zip(scored.flagged.tolist(), scored.reasons(), strict=True))
        bands, actions = [*scored.band_names], ACTIONS
        positions = self._positions(events)
        degraded: Any = events[DEGRADED]
        encode = msgspec.json.Encoder().encode
        rows = zip(
            ids.strings(), times.tolist(), scored.score.tolist(), scored.band.tolist(), scored.action.tolist(),
            degraded.strings(), positions, strict=True,
        )  # fmt: skip
        for i, (name, at_ms, score, band, action, broken, position) in enumerate(rows):
            if score != score:
                continue
            yield name.encode(), encode({
                "event_id": name, "score": score, "band": bands[band], "action": actions[action],
                "reasons": reasons.get(i, []),
                "bundle": live.version, "degraded": broken.split(",") if broken else [], "occurred_at": at_ms,
                "positions": position,
            })  # fmt: skip

    def _positions(self, events: Columns) -> list[dict[str, str]]:
        """Where each row stands in every stage's log, as partition/offset/row."""
        named: list[tuple[str, Any, Any]] = [(self.plan.scored.name, events[INTAKE_PARTITION], events[INTAKE_LOG])]
        named += [
            (s.entity.field, events[part], events[log])
            for s, (log, part) in zip(self.plan.stages, self._logs, strict=True)
        ]
        columns = [
            [
                f"{p}/{x >> ROW_BITS}/{x & ((1 << ROW_BITS) - 1)}"
                for p, x in zip(part.tolist(), log.tolist(), strict=True)
            ]
            for _, part, log in named
        ]
        names = [n for n, _, _ in named]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _headers(self, head: Head) -> Headers:
        """What is not a pure function of the log stands in headers."""
        decided = str(int(time.time() * 1000)).encode()
        return [("decided-at", decided), ("epoch", str(head.epoch).encode()), ("worker", self.worker.encode())]

    async def _send_rows(
        self,
        head: Head,
        columns: Columns,
        events: Any,
        scored: Scored | None,
        live: Live,
        sent: dict[str, int],
        outbox: Outbox,
    ) -> None:
        full = {**columns, **self._outputs(n_rows(columns), events, scored, live)}
        positions: Any = full[self._by]
        partition = head.partition % self._rows_partitions
        key = source_name(ROWS_SOURCE, partition)
        source = source_name(self.plan.stages[-1].entity.field, head.partition)
        parts = blocks.cut(full, source=source, by=self._by, after=sent.get(key, -1), epoch=head.epoch)
        await outbox.send(self.names.rows, partition, [(None, block) for block in parts])
        sent[key] = int(positions[-1])

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
