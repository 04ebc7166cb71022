"""Each rule of DESIGN.md section 5 switched off, one at a time: what the code would be without it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from riskflow import evaluate
from riskflow.errors import NotReady
from riskflow.state import log_columns, new_head, row_position
from stream import blocks, entity, head
from stream.fetcher import Span
from stream.head import Commit, Head
from stream.lane import Lane
from stream.lanes import Lanes
from stream.outbox import Outbox
from stream.score import Score
from stream.sweep import Sweep
from stream.team import Team
from tests.model.store import Rules, Version, tag
from tests.model.world import Worker

Patch = pytest.MonkeyPatch


def no_new_epoch(patch: Patch, rules: Rules) -> None:
    rules.raises_epoch = False


def load_without_epoch(patch: Patch, rules: Rules) -> None:
    rules.load = (b"position",)


def load_without_position(patch: Patch, rules: Rules) -> None:
    rules.load = (b"epoch",)


def commit_without_epoch(patch: Patch, rules: Rules) -> None:
    rules.commit = (b"position",)


def commit_without_position(patch: Patch, rules: Rules) -> None:
    rules.commit = (b"epoch",)


def commit_in_two_steps(patch: Patch, rules: Rules) -> None:
    """Records first, the head later: Redis may lose what lies between."""
    rules.commits_at_once = False


def load_in_two_steps(patch: Patch, rules: Rules) -> None:
    """First whether the head is ours, then the records."""
    whole = head.load

    async def load(wanted: Sequence[tuple[Head, Sequence[bytes]]]) -> list[list[bytes | None]]:
        await whole([(h, ()) for h, _ in wanted])
        found = []
        for one, entities in wanted:
            client: Any = one.redis
            await client._gate("redis")
            version = client.store.now(one.keys[0]) or Version(0, {}, {})
            found.append([version.records.get(b"e:" + e) for e in entities])
        return found

    patch.setattr(head, "load", load)


def records_cached(patch: Patch, rules: Rules) -> None:
    """What a worker once loaded or wrote is not asked for again."""
    whole_load, whole_done = head.load, Commit.done

    def cache(of: Head) -> dict[bytes, bytes | None]:
        store: Any = of.redis
        return store.__dict__.setdefault("cached " + of.keys[1], {})

    async def load(wanted: Sequence[tuple[Head, Sequence[bytes]]]) -> list[list[bytes | None]]:
        for (one, entities), found in zip(wanted, await whole_load(wanted), strict=True):
            for name, record in zip(entities, found, strict=True):
                cache(one).setdefault(name, record)
        return [[cache(one)[name] for name in entities] for one, entities in wanted]

    def done(commit: Commit) -> None:
        whole_done(commit)
        cache(commit.head).update(zip(commit.entities, commit.records, strict=True))

    patch.setattr(head, "load", load)
    patch.setattr(Commit, "done", done)


def no_gap_check(patch: Patch, rules: Rules) -> None:
    """A block is taken whatever position it follows."""
    whole = blocks._check

    def check(stage: str, block: Any, header: Any, *rest: Any) -> None:
        header.meta["from"] = [(source, -1, rows) for source, _, rows in header.meta["from"]]
        whole(stage, block, header, *rest)

    patch.setattr(blocks, "_check", check)


def applied_rows_again(patch: Patch, rules: Rules) -> None:
    """Rows at or below the last applied position are new ones."""
    whole = blocks._check

    def check(stage: str, block: Any, header: Any, columns: Any, at: int, fresh: Any) -> None:
        whole(stage, block, header, columns, at, fresh)
        fresh[:] = True

    patch.setattr(blocks, "_check", check)


def positions_as_drained(patch: Patch, rules: Rules) -> None:
    """A row's position is its number among the rows that were taken together."""

    def locate(stage: str, found: Any, headers: Any, columns: Any) -> None:
        log, part = log_columns(stage)
        rows = np.concatenate([np.full(h.rows, f.partition) for f, h in zip(found, headers, strict=True)])
        first = {f.partition: row_position(f.offset) for f in reversed(found)}
        columns[part] = rows.astype(np.int32)
        columns[log] = np.array([first[p] for p in rows.tolist()], np.int64)
        for p in first:
            mine = np.flatnonzero(rows == p)
            columns[log][mine] += np.arange(len(mine))

    patch.setattr(blocks, "_locate", locate)


def commit_before_send(patch: Patch, rules: Rules) -> None:
    """Outputs leave once the commit stands."""
    kept: list[tuple[Outbox, Any]] = []
    whole_commit, whole_send = head.commit, Outbox.send

    async def send(self: Outbox, topic: str, partition: int, records: Any, headers: Any = None) -> None:
        kept.append((self, (topic, partition, list(records), headers)))

    async def commit(commits: Sequence[Commit]) -> None:
        await whole_commit(commits)
        while kept:
            outbox, (topic, partition, records, headers) = kept.pop(0)
            await whole_send(outbox, topic, partition, records, headers)
            await outbox.acknowledged()

    patch.setattr(Outbox, "send", send)
    patch.setattr(head, "commit", commit)


def no_acknowledgement(patch: Patch, rules: Rules) -> None:
    """The commit does not wait until the outputs are on the broker."""

    async def acknowledged(self: Outbox) -> None:
        for topic, records in self._rejected.items():
            await self._producer.send_records(topic, 0, records)

    patch.setattr(Outbox, "acknowledged", acknowledged)


def swap_without_pin(patch: Patch, rules: Rules) -> None:
    """A new bundle is used at once; the head says so with the batch's own commit."""

    async def ready(self: Score, work: Sequence[Any]) -> None:
        newest = await self.swap.newest()
        for batch in work:
            wanted = await self._wanted(batch.head, newest)
            if wanted is not None:
                batch.head.roster = wanted.stored(batch.head.position)

    patch.setattr(Score, "ready", ready)


def no_fence(patch: Patch, rules: Rules) -> None:
    """A new bundle is pinned where outputs of the old one may have left already."""
    whole = Lanes._open

    def open_(self: Lanes, tp: Any, of: Head) -> None:
        of.fence = 0
        whole(self, tp, of)

    patch.setattr(Lanes, "_open", open_)


def roster_said_once(patch: Patch, rules: Rules) -> None:
    """Only the pin's own commit writes the roster."""
    whole = Commit.arguments

    def arguments(self: Commit) -> list[Any]:
        held, self.head.roster = self.head.roster, {}
        try:
            return whole(self)
        finally:
            self.head.roster = held

    patch.setattr(Commit, "arguments", arguments)


def others_not_pinned(patch: Patch, rules: Rules) -> None:
    """Shadows are those that this worker has seen last; only who decides is pinned."""
    whole = Team.opinions

    async def opinions(self: Team, events: Any) -> Any:
        newest = await self.swap.newest()
        self.roster = replace(self.roster, others=newest.others)
        return await whole(self, events)

    patch.setattr(Team, "opinions", opinions)


def canary_not_pinned(patch: Patch, rules: Rules) -> None:
    """The canary is the one that this worker has seen last."""
    whole = Team.decide

    async def decide(self: Team, events: Any, messages: Any) -> Any:
        newest = await self.swap.newest()
        self.roster = replace(self.roster, canary=newest.canary)
        return await whole(self, events, messages)

    patch.setattr(Team, "decide", decide)


def no_ring_of_ids(patch: Patch, rules: Rules) -> None:
    """Every row is a new one."""
    whole, ids = evaluate._identity, itertools.count(1)

    def identity(*of: Any) -> Any:
        found = whole(*of)
        return {**found, "event": np.array([next(ids) for _ in found["event"]], np.int64)}

    patch.setattr(evaluate, "_identity", identity)


def position_guessed(patch: Patch, rules: Rules) -> None:
    """A head that is missing begins at the end of its log."""
    whole = Lanes._claim

    async def claim(self: Lanes, tp: Any, topic_id: str) -> Head:
        try:
            return await whole(self, tp, topic_id)
        except NotReady:
            assert self.consumer is not None
            _, end = (await self.consumer.log_range([tp]))[tp]
            values = new_head(end, topic_id, self._layout)
            key = self._names.head(self._stages[tp.topic].name, tp.partition)
            self._redis.store.partitions[tag(key)] = [
                Version(0, {k.encode(): str(v).encode() for k, v in values.items()}, {})
            ]
            return await whole(self, tp, topic_id)

    patch.setattr(Lanes, "_claim", claim)


def retention_not_looked_at(patch: Patch, rules: Rules) -> None:
    """Reading goes on where the log begins now."""

    def check(self: Lanes, tp: Any, of: Head, topic_id: str, log_range: Any) -> None:
        of.fence = log_range[1]

    def reset(self: Worker, tp: Any) -> None:
        self.consumer.at[tp] = self._broker.first[tp]

    def put(self: Lane, span: Span) -> bool:
        return whole(self, replace(span, begin=min(span.begin, self._next)))

    whole = Lane.put
    patch.setattr(Worker, "out_of_range", reset)
    patch.setattr(Lane, "put", put)
    patch.setattr(Lanes, "_check", check)


def release_at_once(patch: Patch, rules: Rules) -> None:
    """A partition is given back while a batch of it is being applied."""

    async def release(self: Lanes, revoked: Any) -> None:
        for tp in revoked:
            self._lanes.pop(tp, None)

    patch.setattr(Lanes, "release", release)


def lane_kept(patch: Patch, rules: Rules) -> None:
    """A partition that comes back is not claimed again."""

    async def release(self: Lanes, revoked: Any) -> None: ...

    patch.setattr(Lanes, "release", release)


def internal_log_may_jump(patch: Patch, rules: Rules) -> None:
    """An offset above the position is taken on an internal log."""
    _jumps(patch, internal=True)


def feed_may_jump(patch: Patch, rules: Rules) -> None:
    """A jump of a feed is taken without reading it again."""
    _jumps(patch, internal=False)


def _jumps(patch: Patch, internal: bool) -> None:
    whole = Lane.put

    def put(self: Lane, span: Span) -> bool:
        if self.stage.internal is internal:
            self._next = max(self._next, span.begin)
        return whole(self, span)

    patch.setattr(Lane, "put", put)


def unanswered_is_done(patch: Patch, rules: Rules) -> None:
    """A commit without an answer is taken for done."""

    async def happened(self: Head, position: int) -> bool:
        return True

    patch.setattr(Head, "happened", happened)


def unanswered_is_repeated(patch: Patch, rules: Rules) -> None:
    """A commit without an answer is sent again without a look."""

    async def happened(self: Head, position: int) -> bool:
        return False

    patch.setattr(Head, "happened", happened)


def sent_forgotten(patch: Patch, rules: Rules) -> None:
    """Blocks do not say after which position they come."""
    whole = blocks.cut

    def cut(columns: Any, parts: Any, **more: Any) -> Any:
        for sources in parts:
            for source in sources:
                source.after = -1
        return whole(columns, parts, **more)

    patch.setattr(blocks, "cut", cut)


def conflicts_are_duplicates(patch: Patch, rules: Rules) -> None:
    """The same id with other content is dropped in silence."""
    patch.setattr(entity.EntityStage, "_refuse", lambda *_: None)


def watermark_not_committed(patch: Patch, rules: Rules) -> None:
    """The head does not say which days its rows have shown."""
    whole = Commit.arguments

    def arguments(self: Commit) -> list[Any]:
        self.watermark = None
        return whole(self)

    patch.setattr(Commit, "arguments", arguments)


def living_swept(patch: Patch, rules: Rules) -> None:
    """Whoever was not seen on the newest day is deleted."""
    whole = Sweep.__init__

    def init(self: Sweep, *of: Any) -> None:
        whole(self, *of)
        self._live_days = dict.fromkeys(self._live_days, 0)

    patch.setattr(Sweep, "__init__", init)


RULES: dict[str, Callable[[Patch, Rules], None]] = {
    f.__name__: f
    for f in (
        no_new_epoch, load_without_epoch, load_without_position, commit_without_epoch, commit_without_position,
        commit_in_two_steps, load_in_two_steps, records_cached, no_gap_check, applied_rows_again, positions_as_drained,
        commit_before_send, no_acknowledgement, swap_without_pin, no_fence, roster_said_once, others_not_pinned,
        canary_not_pinned, no_ring_of_ids,
        position_guessed, retention_not_looked_at, release_at_once, lane_kept, internal_log_may_jump, feed_may_jump,
        unanswered_is_done, unanswered_is_repeated, sent_forgotten, conflicts_are_duplicates,
        watermark_not_committed, living_swept,
    )
}  # fmt: skip
