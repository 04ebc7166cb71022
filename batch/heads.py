"""Heads of a generation as batch reads them: how far each stage is, and whether it has come to an offset."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from batch.read_log import read_log
from batch.topics import stages
from riskflow.errors import NotReady
from riskflow.names import Names
from riskflow.plan import Plan

At = tuple[str, int]  # stage, partition
LOOK_S = 0.02


def read_heads(store: Any, plan: Plan, names: Names, there: Mapping[str, tuple[str, int]]) -> dict[At, dict[str, str]]:
    """The heads that Redis has. there: topic -> (topic id, partitions)."""
    wanted = [(s, p) for s, t, _ in stages(plan, names) if t in there for p in range(there[t][1])]
    pipe = store.pipeline(transaction=False)
    for stage, p in wanted:
        pipe.hgetall(names.head(stage, p))
    found = zip(wanted, pipe.execute(), strict=True)
    return {at: {k.decode(): v.decode() for k, v in head.items()} for at, head in found if head}


def positions(store: Any, names: Names, wanted: Mapping[At, int]) -> dict[At, int]:
    """How far these stages and partitions are; -1 where there is no head."""
    pipe = store.pipeline(transaction=False)
    for stage, p in wanted:
        pipe.hget(names.head(stage, p), "position")
    return {at: -1 if found is None else int(found) for at, found in zip(wanted, pipe.execute(), strict=True)}


class Passing:
    """Waits until stages have applied their logs up to given offsets."""

    def __init__(self, store: Any, plan: Plan, names: Names, kafka: str) -> None:
        self._store, self._names, self._kafka = store, names, kafka
        self._topics = {stage: topic for stage, topic, _ in stages(plan, names)}
        self._empty: dict[tuple[At, int], int] = {}

    def wait(self, wanted: Mapping[At, int], timeout_s: float, otherwise: Callable[[str], str]) -> None:
        """Returns when every position has come to its offset; raises NotReady with the words of `otherwise`."""
        until = time.monotonic() + timeout_s
        while left := self.left(wanted):
            if time.monotonic() > until:
                raise NotReady(otherwise(", ".join(f"{s}, partition {p}" for s, p in left)))
            time.sleep(LOOK_S)

    def left(self, wanted: Mapping[At, int]) -> list[At]:
        """Those that are not there yet."""
        now = positions(self._store, self._names, wanted)
        behind = [at for at, end in wanted.items() if now[at] < end]
        return [at for at in behind if not self._nothing_between(at, now[at], wanted[at])]

    def _nothing_between(self, at: At, position: int, end: int) -> bool:
        """The rest may be markers of transactions, which no stage is given. Looked at once it does not move."""
        last = self._empty.get((at, end))
        self._empty[at, end] = position
        if position < 0 or last != position:
            return False
        found = read_log(self._kafka, self._topics[at[0]], {at[1]: (position, end)})
        return not any(records for _, records, _, _ in found)
