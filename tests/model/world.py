"""Kafka, Redis, registry and workers in memory; the workers are the real lanes, stages and heads.

A worker goes through *gates*: each call to Redis, each answer, each record batch that reaches the broker. It can be
stopped at any of them, and then be dropped (a kill) or go on later (a zombie).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
from faust.types import TP

from riskflow.columns import Columns, n_rows
from riskflow.declare import Count, Sum, Windows
from riskflow.errors import NotReady, RiskflowError
from riskflow.moves import CANARY, CHAMPION
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.scoring import Scored
from riskflow.state import new_head
from stream.cluster import TopicInfo
from stream.entity import EntityStage, Forward
from stream.fetcher import Span
from stream.intake import Intake
from stream.lanes import Lanes
from stream.roster import Pin, Roster
from stream.score import Partitions, Score
from stream.swap import Live
from stream.sweep import Sweep
from stream.transport import Fetch
from tests.model.clock import settle
from tests.model.store import Client, Rules, Store, Version, tag
from tests.unit import kernel_cases

NAMES = Names("tried")
LAYOUT = "layout"
BATCH_ROWS = 3  # of a feed, so that a fetch becomes several passes
START_MS = kernel_cases.START
BROKER_MS = START_MS + 10**12  # later than any event's time
PAYMENTS, REPORTS = TP(NAMES.feed("payments"), 0), TP(NAMES.feed("reports"), 0)
CARDS, SHOPS = [TP(NAMES.by("card"), p) for p in range(2)], [TP(NAMES.by("shop"), 0)]
READ = [PAYMENTS, REPORTS, *CARDS, *SHOPS]
INTERNAL = [*CARDS, *SHOPS]
WINDOW_DAYS = 90
LIVE_DAYS = WINDOW_DAYS + 1 + 30  # of an entity, after its last row: the ring and the grace
STAGE_OF = {PAYMENTS.topic: "payments", REPORTS.topic: "reports", CARDS[0].topic: "card", SHOPS[0].topic: "shop"}
LOST_END, LOST_WRITES, REFUSED = "a log lost its end", "Redis lost its last writes", "the broker refuses"


@cache
def plan() -> Plan:
    """Two feeds, two entities: two sources and two destinations on the way, and windows over what came before."""
    return kernel_cases.plan_of(
        kernel_cases.half,
        paid=Windows(by=kernel_cases.card, over=["90d"], events=[Count()], amount=[Sum()]),
        at_shop=Windows(by=kernel_cases.shop, over=["90d"], events=[Count()], half=[Sum()]),
        said=Windows(by=kernel_cases.shop, on=kernel_cases.reports, over=["90d"], is_fraud=[Sum()]),
    )


# ---- Kafka -----------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """What aiokafka hands over."""

    offset: int
    key: bytes | None
    value: bytes
    headers: Any
    timestamp: int = BROKER_MS
    timestamp_type: int = 0


class Broker:
    """Logs by topic and partition."""

    def __init__(self) -> None:
        self.logs: dict[TP, list[Record]] = {tp: [] for tp in READ}
        self.first: dict[TP, int] = {}  # where retention has come to

    def append(self, tp: TP, key: bytes | None, value: bytes, headers: Any = ()) -> None:
        log = self.logs.setdefault(tp, [])
        log.append(Record(len(log), key, value, headers))

    def read(self, tp: TP, at: int, most: int) -> list[Record]:
        at = max(at, self.first.get(tp, 0))
        return self.logs[tp][at : at + most]

    def end(self, tp: TP) -> int:
        return len(self.logs.get(tp, ()))

    def topic(self, name: str) -> list[Record]:
        return [r for tp, log in self.logs.items() if tp.topic == name for r in log]


class Producer:
    """Queues record batches; each reaches the broker at a gate of its own, in order."""

    on_log: Callable[[TP, int, list[bytes]], None]

    def __init__(self, broker: Broker, pace: Pace) -> None:
        self._broker, self._pace = broker, pace
        self.says_where = True
        self._queue: deque[tuple[TP, list[Any], asyncio.Future[None]]] = deque()
        self._sending: asyncio.Task[None] | None = None
        self.fail_next = False

    async def send_records(self, topic: str, partition: int, records: Iterable[Any]) -> list[asyncio.Future[None]]:
        queued = list(records)
        if not queued:
            return []
        acknowledged = asyncio.get_running_loop().create_future()
        self._queue.append((TP(topic, partition), queued, acknowledged))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())
        return [acknowledged]

    async def _send(self) -> None:
        while self._queue:
            tp, records, acknowledged = self._queue[0]
            await self._pace.gate(f"send {tp.topic.rpartition('.')[2]}")
            self._queue.popleft()
            if self.fail_next:
                self.fail_next = False
                acknowledged.set_exception(OSError("the broker did not take it"))
                acknowledged.exception()  # seen: the worker may have been killed
                continue
            first = self._broker.end(tp)
            for key, value, headers in records:
                self._broker.append(tp, key, value, headers)
            acknowledged.set_result(None)
            self.on_log(tp, first if self.says_where else -1, [value for _, value, _ in records])


class Consumer:
    """What lanes ask of the consumer; `at` is where each partition is read next."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.at: dict[TP, int] = {}

    async def log_range(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        return {tp: (self._broker.first.get(tp, 0), self._broker.end(tp)) for tp in tps}

    def read_from(self, tp: TP, offset: int) -> None:
        self.at[tp] = offset

    def skip_to(self, tp: TP, offset: int) -> None:
        if tp in self.at:
            self.at[tp] = max(self.at[tp], offset)

    def attend(self, tp: TP) -> None:
        """All that is read is read with each fetch."""

    def hold(self, tp: TP) -> None:
        """Few records are waiting here."""

    let_go = hold


# ---- bundles ---------------------------------------------------------------------------------------------------------

CANARY_OF, SHADOW_OF = 1000, 2000  # bundles of roster n: champion n, canary n + 1000, shadows n + 2000 and n + 3000
SHARE = 0.5


class Scorer:
    """A bundle whose number can be seen in every score. A fragile one fails where a shop was seen often."""

    def __init__(self, version: int) -> None:
        self._version = version

    def score(self, columns: Columns, shared: Any = None) -> Scored:
        n = n_rows(columns)
        counts: Any = columns["at_shop_events_count_90d"]
        if fragile(self._version) and (counts > 2).any():
            raise ValueError("this one cannot count")
        score = np.round(np.nan_to_num(counts) / 1000 + self._version / 10, 6)
        flags = np.zeros(n, np.int8)
        return Scored(
            {}, score, flags, flags, np.zeros((0, n), np.bool_), ("low",), lambda rows, *_: [[] for _ in rows]
        )


def fragile(version: int) -> bool:
    """The canary of every third roster, the first shadow of every fourth."""
    kind, number = divmod(version, 1000)
    return (kind == 1 and number % 3 == 0) or (kind == 2 and number % 4 == 0)


def roster_of(version: int) -> int:
    """The number of the roster that a bundle is of."""
    return version % 1000


@cache
def bundle(version: int) -> Live:
    return Live(version, f"hash {version}", Scorer(version))  # type: ignore[arg-type]


@cache
def roster(number: int) -> Roster:
    """What the registry says after so many moves: now and then a canary, and no, one or two shadows."""

    def pin(alias: str, version: int, share: float | None = None) -> Pin:
        return Pin(alias, version, f"hash {version}", number, share)

    canary = pin(CANARY, number + CANARY_OF, SHARE) if number % 3 != 1 else None
    others = tuple(pin(f"shadow:s{i}", number + SHADOW_OF + 1000 * i) for i in range(number % 3))
    return Roster(pin(CHAMPION, number), canary, others, number)


class Swap:
    """What a worker has seen of the registry: the newest roster, until it looks again."""

    found = True

    def __init__(self, number: int) -> None:
        self.seen = number
        self._failed: set[Pin] = set()

    async def newest(self) -> Roster:
        return roster(self.seen).only(lambda pin: pin not in self._failed)

    async def usable(self, pinned: Roster) -> Roster:
        return pinned.only(lambda pin: pin not in self._failed)

    async def pinned(self, pin: Pin) -> Live:
        return bundle(pin.version)

    def leave_out(self, pin: Pin, why: str) -> None:
        self._failed.add(pin)


@cache
def intakes() -> list[Intake]:
    """Made once: making a decoder takes longer than most sequences' decoding."""
    nobody: Any = None
    return [Intake(plan(), feed, NAMES, nobody, len(CARDS)) for feed in plan().usecase.feeds]


# ---- workers ---------------------------------------------------------------------------------------------------------


class Pace:
    """Lets a worker through its gates, stops it at one, for a while or for good."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._at = ""
        self._waiting: list[asyncio.Future[None]] = []
        self.dead = False

    async def gate(self, name: str) -> None:
        if name == self._at:
            self._left = 0
        while self.dead or self._left == 0:
            going_on = asyncio.get_running_loop().create_future()
            self._waiting.append(going_on)
            await going_on
        if self._left is not None:
            self._left -= 1

    def go(self, gates: int | None = None, at: str = "") -> None:
        """On, through so many gates or to one with this name; through all of them by default."""
        self._left, self._at = gates, at
        if not self.dead:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.set_result(None)

    @property
    def stopped(self) -> bool:
        """At a gate: in the middle of something."""
        return bool(self._waiting)


class Worker:
    """One process: real lanes and stages on services in memory."""

    def __init__(self, world: World) -> None:
        self.pace = Pace()
        self.redis: Any = Client(world.store, self.pace.gate)
        self.producer: Any = Producer(world.broker, self.pace)
        self.consumer: Any = Consumer(world.broker)
        self.swap: Any = Swap(world.champion)
        self.ended: BaseException | None = None
        self._broker = world.broker
        self.lanes = Lanes(NAMES, LAYOUT, self.redis, world.describe, BATCH_ROWS, self.failed)
        self.lanes.consumer = self.consumer
        self.producer.on_log = self.lanes.hand_on
        self.sweep = Sweep(plan(), self.lanes, 0.0)
        for stage in self._stages():
            self.lanes.add(stage)

    def _stages(self) -> list[Any]:
        feeds = [copy(intake) for intake in intakes()]
        for intake in feeds:
            intake.producer = self.producer
        score = Score(plan(), NAMES, self.swap, "w", Partitions(1, 1, 1))
        first, last = plan().stages
        forward = Forward(NAMES, first, last, len(SHOPS))
        return [
            *feeds, EntityStage(plan(), first, NAMES, self.producer, forward),
            EntityStage(plan(), last, NAMES, self.producer, score),
        ]  # fmt: skip

    def failed(self, error: BaseException) -> None:
        self.ended = self.ended or error
        self.pace.dead = True

    @property
    def alive(self) -> bool:
        return not self.pace.dead

    async def claim(self, tps: Iterable[TP]) -> None:
        """Takes partitions; another claim of this worker may be going on."""
        wanted = set(tps)

        async def claiming() -> None:
            try:
                positions = await self.lanes.claim(wanted)
            except Exception as error:
                self.failed(error)
                return
            self.consumer.at.update({tp: p for tp, p in positions.items() if tp in wanted})

        self._claiming = asyncio.get_running_loop().create_task(claiming())
        await settle()

    async def release(self, tps: Iterable[TP]) -> None:
        """Gives partitions back, as on a rebalance that waits for it: what is being applied is finished first."""
        gone = set(tps)
        releasing = asyncio.get_running_loop().create_task(self.lanes.release(gone))
        for tp in gone:
            self.consumer.at.pop(tp, None)
        await settle()
        if not releasing.done():
            self.pace.go()
            await settle()

    def out_of_range(self, tp: TP) -> None:
        """As stream/fetcher.py does when the broker has deleted what it is asked for."""
        self.failed(NotReady(f"{tp}: the position is outside what the log holds"))

    async def look_for_dead(self) -> None:
        """One step of the sweep for each partition, which may end in the middle."""

        async def looking() -> None:
            try:
                for _ in READ:
                    await self.sweep.step()
            except Exception as error:
                self.failed(error)

        self._looking = asyncio.get_running_loop().create_task(looking())
        await settle()

    def fetch(self, tp: TP, most: int) -> int:
        """Hands over what is next in a partition; returns how many records there were."""
        at = self.consumer.at.get(tp)
        if at is None or not self.alive:
            return 0
        if at < self._broker.first.get(tp, 0):
            self.out_of_range(tp)
            return 0
        records = self._broker.read(tp, at, most)
        if records:
            self.consumer.at[tp] = records[-1].offset + 1
            try:
                self.lanes.put(Fetch(Span(tp, at, records[-1].offset + 1, records)))
            except Exception as error:
                self.failed(error)
        return len(records)


@dataclass
class World:
    """Everything, and what has been done to it."""

    rules: Rules = field(default_factory=Rules)
    champion: int = 1
    planted: set[str] = field(default_factory=set)  # faults after which some things are allowed
    wrong: list[str] = field(default_factory=list)
    later_ms: int = 0  # by how much events happen later than they did at first
    # Rows of the last log below this offset may have two scores: Redis lost a swap under them.
    two_scores_below: int = 0

    def __post_init__(self) -> None:
        self.store = Store(self.rules)
        self.broker = Broker()
        for tp in READ:
            values = new_head(0, f"id of {tp.topic}", LAYOUT)
            stored = {k.encode(): str(v).encode() for k, v in values.items()}
            self.store.write(self.head_key(tp), Version(0, stored, {}))
        self.workers: list[Worker] = []
        self._gone: list[Worker] = []  # kept, or their unfinished tasks would be collected
        self.owner: dict[TP, Worker] = {}

    @staticmethod
    def head_key(tp: TP) -> str:
        return NAMES.head(STAGE_OF[tp.topic], tp.partition)

    def position(self, tp: TP) -> int:
        version = self.store.now(self.head_key(tp))
        return int(version.head[b"position"]) if version else -1

    async def describe(self) -> dict[str, TopicInfo]:
        return {t: TopicInfo(f"id of {t}", sum(tp.topic == t for tp in READ)) for t in STAGE_OF}

    # what happens

    async def start(self, tps: Iterable[TP]) -> Worker:
        worker = Worker(self)
        self.workers.append(worker)
        mine = list(tps)
        self.owner.update(dict.fromkeys(mine, worker))
        await worker.claim(mine)
        return worker

    async def restart_ended(self) -> None:
        """The supervisor."""
        for worker in [w for w in self.workers if not w.alive]:
            self.workers.remove(worker)
            self._gone.append(worker)
            if worker.ended is not None:
                self._check_end(worker.ended)
            tps = [tp for tp, w in self.owner.items() if w is worker]
            if tps:
                await self.start(tps)

    def _check_end(self, error: BaseException) -> None:
        """A worker ends for a reason, and by a word for people."""
        refused = isinstance(error, OSError) and REFUSED in self.planted
        if not isinstance(error, RiskflowError) and not refused:
            raise error
        if not self.planted:
            self.wrong.append(f"a worker ended without a reason: {error}")

    def publish(self) -> None:
        self.champion += 1

    def send(self, tp: TP, message: dict[str, Any]) -> None:
        self.broker.append(tp, None, msgspec.json.encode(message))

    async def deliver(self, workers: Iterable[Worker], most: int, rounds: int) -> bool:
        """Fetches, and what comes of them, hop after hop; False when there was nothing."""
        anything = False
        for _ in range(rounds):
            got = sum([w.fetch(tp, most) for w in workers for tp in list(w.consumer.at)])
            if not got:
                break
            anything = True
            await settle()
        return anything

    def kill(self, worker: Worker) -> None:
        worker.pace.dead = True

    async def move(self, tps: Iterable[TP], to: Worker, *, asked: bool) -> None:
        """A rebalance. An owner that is not asked (it was cut off, or stopped) goes on as a zombie."""
        by_owner: dict[int, list[TP]] = {}
        for tp in tps:
            if self.owner[tp] is not to:
                by_owner.setdefault(id(self.owner[tp]), []).append(tp)
        for of in [w for w in self.workers if id(w) in by_owner]:
            gone = by_owner[id(of)]
            if asked:
                await of.release(gone)
            else:
                self.planted.add("zombie")
            self.owner.update(dict.fromkeys(gone, to))
        await to.claim([tp for tps in by_owner.values() for tp in tps])

    async def go_on(self, worker: Worker, gates: int | None) -> None:
        """A stopped worker goes on; once it is through it hears what it has lost."""
        worker.pace.go(gates)
        await settle()
        lost = [tp for tp in worker.consumer.at if self.owner[tp] is not worker]
        if lost and worker.alive and not worker.pace.stopped:
            await worker.release(lost)

    def lose(self, tp: TP, versions: int) -> None:
        """The last writes of one partition are gone: a replica that lagged leads now."""
        if LOST_END in self.planted:
            return  # what Redis has forgotten, Kafka has to know
        self._lost(tp, self.store.lose(tag(self.head_key(tp)), versions))

    def lose_everywhere(self, writes: int) -> None:
        """The last writes of all partitions are gone: the last second of one Redis."""
        since = self.store.writes - writes
        for tp in READ if LOST_END not in self.planted else ():
            self._lost(tp, self.store.lose_since(tag(self.head_key(tp)), since))

    def _lost(self, tp: TP, lost: list[Version]) -> None:
        if not lost:
            return
        self.planted.add(LOST_WRITES)
        if tp in SHOPS:
            now = self.store.now(self.head_key(tp))
            assert now is not None
            if any(v.head[b"roster"] != now.head[b"roster"] for v in lost):
                self.two_scores_below = self.broker.end(tp)

    @property
    def done(self) -> bool:
        return all(self.position(tp) == self.broker.end(tp) for tp in READ)
