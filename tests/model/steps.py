"""A sequence of steps, and one run of it: what hypothesis makes up, done to a world, then everything checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from riskflow.errors import NotReady
from riskflow.windows import DAY
from tests.model.clock import JumpingLoop, settle
from tests.model.oracle import Check
from tests.model.store import LOST_AFTER, LOST_BEFORE, Rules, tag
from tests.model.world import (
    INTERNAL,
    LIVE_DAYS,
    LOST_END,
    LOST_WRITES,
    PAYMENTS,
    READ,
    REFUSED,
    REPORTS,
    START_MS,
    Worker,
    World,
)

Step = tuple[str, int, int]
ROUNDS = 40  # of the end: by then everything has been applied, or never will be
CARD_IDS = 4
GATES = [
    *(f"{what} {stage}" for stage in ("payments", "card", "shop")
      for what in ("load", "after load", "commit", "after commit")),
    "send card", "send shop", "send scores", "send rows",
]  # fmt: skip
STOPS = ("a head is missing", "retention passed a position", LOST_END)


class Run:
    """Steps done to one world."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.world = World(rules or Rules())
        self.stopped = ""

    async def run(self, steps: Sequence[Step]) -> list[str]:
        """What is wrong after them; nothing, hopefully."""
        await self.world.start(READ)
        for name, a, b in steps:
            await STEPS[name](self, a, b)
            await self._supervise()
        await self._finish()
        if self.stopped:
            return [*self.world.wrong, *self.world.store.stolen]
        return Check(self.world).run()

    async def _supervise(self) -> None:
        for worker in self.world.workers:
            if isinstance(worker.ended, NotReady):
                self.stopped = str(worker.ended)
                if not self.world.planted & set(STOPS):
                    self.world.wrong.append(f"not ready without a reason: {self.stopped}")
        await self.world.restart_ended()

    async def _finish(self) -> None:
        """Stopped workers go on, the rest is delivered."""
        for worker in list(self.world.workers):
            await self.world.go_on(worker, None)
        for _ in range(2 if LOST_END in self.world.planted else 0):
            await self._send_more()
        for _ in range(ROUNDS):
            await self._supervise()
            if self.stopped or self.world.done:
                return
            if not await self.world.deliver(list(self.world.workers), 100, 1):
                for worker in self.world.workers:  # nothing comes that would tell them that Redis is behind
                    self.world.kill(worker)
        if not self.world.planted & set(STOPS):
            at = {f"{tp.topic}/{tp.partition}": (self.world.position(tp), self.world.broker.end(tp)) for tp in READ}
            self.world.wrong.append(f"stuck at {at}")
        self.stopped = "rows are missing, and somebody noticed"

    async def _send_more(self) -> None:
        """A loss shows by what comes behind it; the first block may take the very offset that was lost."""
        for card in range(CARD_IDS):
            self._new_payment(card, 0)
            self._new_report(card, 0)
        await self.world.deliver(list(self.world.workers), 100, 4)
        await self._supervise()

    def worker(self, a: int) -> Worker:
        return self.world.workers[a % len(self.world.workers)]

    # steps; a and b are small numbers

    async def payments(self, a: int, b: int) -> None:
        """Some payments: mostly new ones, or one that came before, the same or with other content, or garbage."""
        for i in range(1 + a % 4):
            self._payment(a + i, b + 3 * i)

    def _payment(self, a: int, b: int) -> None:
        log = self.world.broker.logs[PAYMENTS]
        n = len(log)
        if n and b % 8 == 0:
            self.world.broker.append(PAYMENTS, None, log[a % n].value)
        elif n and b % 8 == 1:
            self.world.send(PAYMENTS, {**msgspec.json.decode(log[a % n].value), "amount": 1000.0 + n})
        elif b % 16 == 2:
            self.world.send(PAYMENTS, {"garbage": n})
        else:
            self._new_payment(card=b % CARD_IDS, shop=a % 2 if b % 5 else None, late=b % 7 == 3)

    def _now_ms(self, number: int, late: bool) -> int:
        """When an event happens; a late one before all days that have passed."""
        return START_MS + number + (0 if late else self.world.later_ms)

    def _new_payment(self, card: int, shop: int | None, late: bool = False) -> None:
        n = self.world.broker.end(PAYMENTS)
        at_ms = self._now_ms(n, late)
        message: dict[str, Any] = {"payment_id": f"e{n}", "paid_at": at_ms, "card": f"c{card}", "amount": n / 2}
        self.world.send(PAYMENTS, message if shop is None else {**message, "shop": f"s{shop}"})

    def _new_report(self, card: int, shop: int) -> None:
        n = self.world.broker.end(REPORTS)
        message = {"report_id": f"r{n}", "known_at": self._now_ms(n, late=shop == n % 3), "card": f"c{card}"}
        self.world.send(REPORTS, {**message, "shop": f"s{shop}", "is_fraud": True})

    async def reports(self, a: int, b: int) -> None:
        for i in range(1 + a % 2):
            self._new_report((b + i) % CARD_IDS, a % 2)

    async def deliver(self, a: int, b: int) -> None:
        """One worker works on what is there; perhaps it is stopped on the way, after some gates or at a named one."""
        worker = self.worker(a)
        if worker.pace.stopped:
            await self.go_on(a, b)
            return
        gates, at = (b - 10 if 10 <= b < 20 else None), (GATES[b % len(GATES)] if b >= 20 else "")
        worker.pace.go(gates, at)
        await self.world.deliver([worker], 1 + a % 5, 1 + b % 4 if b < 20 else 3)
        if not worker.pace.stopped:
            worker.pace.go()

    async def go_on(self, a: int, b: int) -> None:
        await self.world.go_on(self.worker(a), b if b % 2 else None)

    async def kill(self, a: int, b: int) -> None:
        """A worker ends, where it stands."""
        self.world.kill(self.worker(a))

    async def move(self, a: int, b: int) -> None:
        """Some partitions go to another worker, perhaps a new one; their owners are asked first, or not."""
        if len(self.world.workers) < 2 or (a % 4 == 0 and len(self.world.workers) < 4):
            await self.world.start([])
            a = -1
        await self.world.move([tp for i, tp in enumerate(READ) if b >> i & 1], self.worker(a), asked=b < 32)

    async def swap(self, a: int, b: int) -> None:
        """A new champion, which some workers see at once."""
        self.world.publish()
        for i, worker in enumerate(self.world.workers):
            if b >> i & 1:
                worker.swap.seen = self.world.champion

    async def lose(self, a: int, b: int) -> None:
        """Redis loses its last writes: everywhere, or those of one partition."""
        if a % 4 == 0:
            self.world.lose_everywhere(1 + b % 12)
        else:
            self.world.lose(READ[b % len(READ)], a % 4)

    async def no_answer(self, a: int, b: int) -> None:
        self.worker(a).redis.answers_lost.append(LOST_AFTER if b % 2 else LOST_BEFORE)

    async def redis_restarts(self, a: int, b: int) -> None:
        self.world.store.scripts.clear()

    async def broker_refuses(self, a: int, b: int) -> None:
        self.world.planted.add(REFUSED)
        self.worker(a).producer.fail_next = True

    async def no_offset(self, a: int, b: int) -> None:
        """Acknowledgements do not say where a batch stands, so it has to be fetched; or they do again."""
        self.worker(a).producer.says_where = b % 4 == 3

    async def skip(self, a: int, b: int) -> None:
        """A fetch is lost on its way to the lane; the next one begins further on."""
        at = self.worker(a).consumer.at
        for tp in [tp for i, tp in enumerate(READ) if b >> i & 1 and tp in at]:
            if at[tp] < self.world.broker.end(tp):
                at[tp] += 1
                self.world.planted.add("a fetch was lost on its way")

    async def repeat(self, a: int, b: int) -> None:
        """A fetch brings records again."""
        at = self.worker(a).consumer.at
        for tp in at:
            at[tp] = max(0, at[tp] - 1 - b % 3)

    async def days(self, a: int, b: int) -> None:
        """Days pass between events: some, or so many that who is not seen in them is dead."""
        self.world.later_ms += DAY * (1 + LIVE_DAYS if a % 2 else b)

    async def sweep(self, a: int, b: int) -> None:
        """A worker deletes what is dead by now."""
        await self.worker(a).look_for_dead()

    # what cannot be mended by starting again

    async def truncate(self, a: int, b: int) -> None:
        """An internal log loses its end, and what comes next takes its place: a leader that was not in sync."""
        tp = INTERNAL[a % len(INTERNAL)]
        log = self.world.broker.logs[tp]
        if len(log) > max(0, self.world.position(tp)) and LOST_WRITES not in self.world.planted:
            del log[-1]
            self.world.planted.add(LOST_END)

    async def empty(self, a: int, b: int) -> None:
        """Redis has lost a partition."""
        self.world.store.partitions.pop(tag(World.head_key(READ[a % len(READ)])), None)
        self.world.planted.add("a head is missing")

    async def retention(self, a: int, b: int) -> None:
        """The broker deletes payments that nobody has applied."""
        end = self.world.broker.end(PAYMENTS)
        if end > self.world.position(PAYMENTS) >= 0:
            self.world.broker.first[PAYMENTS] = end
            self.world.planted.add("retention passed a position")


STEPS: dict[str, Callable[[Run, int, int], Any]] = {
    name: getattr(Run, name)
    for name in (
        "payments", "reports", "deliver", "go_on", "kill", "move", "swap", "lose", "no_answer", "redis_restarts",
        "days", "sweep", "broker_refuses", "no_offset", "skip", "repeat", "truncate", "empty", "retention",
    )
}  # fmt: skip


def run(loop: JumpingLoop, steps: Sequence[Step], rules: Rules | None = None) -> list[str]:
    """One sequence on a world of its own; what is wrong afterwards."""

    async def whole() -> list[str]:
        try:
            return await Run(rules).run(steps)
        finally:
            while left := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in left:
                    task.cancel()
                await settle()

    return loop.run_until_complete(whole())
