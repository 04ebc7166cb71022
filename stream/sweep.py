"""Deletes the records of entities that do not come back: a few at a time, by the owner of their partition.

By the rule of riskflow/windows.py a dead record equals none, so nothing depends on when this happens, or whether. One
script looks at some records and at the head's watermark and deletes at once, so nothing comes between; a batch that is
being applied meanwhile has loaded what means the same. What a Redis that lost its last second brings back is as dead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from riskflow.plan import Plan
from stream import metrics
from stream.head import SWEEP, Head, away, run_script

RECORDS = 200  # looked at in one step, about: Redis is kept for half a millisecond


class Partitions(Protocol):
    """The partitions of this worker."""

    def at_rest(self) -> Iterable[Head]: ...


@dataclass
class Round:
    """One look at all records of a partition."""

    epoch: int
    watermark: int  # where the partition stood when it began
    cursor: int = 0  # of HSCAN
    over: bool = False


class Sweep:
    """Goes round each partition once, and again when its watermark has moved on: nobody dies in between."""

    def __init__(self, plan: Plan, partitions: Partitions, every_s: float) -> None:
        self._use_case, self._partitions, self._every_s = plan.name, partitions, every_s
        self._live_days = {stage.entity.field: stage.layout.live_days for stage in plan.stages}
        self._rounds: dict[tuple[str, int], Round] = {}
        self._turns: Counter[tuple[str, int]] = Counter()  # a larger number: later
        self._order = count(1)

    async def watch(self) -> None:
        """A step now and then, for as long as the worker lives; never where that is switched off."""
        while self._every_s:
            await asyncio.sleep(self._every_s)
            await self.step()

    async def step(self) -> None:
        """Looks at some records of a partition that has nothing to do and is not through; they take turns."""
        resting = [head for head in self._partitions.at_rest() if head.stage in self._live_days]
        left = [head for head in resting if not self._round(head).over]
        if left:
            head = min(left, key=lambda head: self._turns[head.stage, head.partition])
            self._turns[head.stage, head.partition] = next(self._order)
            await self._look(head, self._round(head))

    def _round(self, head: Head) -> Round:
        found = self._rounds.get((head.stage, head.partition))
        if found is None or found.epoch != head.epoch or (found.over and found.watermark < head.watermark):
            found = self._rounds[head.stage, head.partition] = Round(head.epoch, head.watermark)
        return found

    async def _look(self, head: Head, this: Round) -> None:
        arguments = [head.epoch, head.position, this.cursor, self._live_days[head.stage], RECORDS]
        try:
            [answer] = await run_script(head.redis, SWEEP, [(head.keys, arguments)])
        except Exception as error:
            if not away(error):
                raise
            return
        if answer[0] == 1:  # else the partition has moved on, and perhaps to somebody else
            this.cursor, this.over = int(answer[1]), int(answer[1]) == 0
            metrics.SWEPT.labels(self._use_case, head.stage).inc(answer[2])
