"""Everything that can be done to a stream while events flow. Each fault is a function of the stage it plays on.

A fault returns when events flow again; one that cannot be done on this machine raises `CannotDo` with the reason.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch.archive import archive
from batch.beside import make_beside
from batch.parity import Parity, parity
from batch.rebuild import rebuild
from batch.switch import switch
from chaos.fleet import RANDOM, Fleet, Stuck, wait_until
from chaos.pacer import Pacer
from chaos.platform import KAFKA, REDIS, Platform
from chaos.publisher import Publisher
from riskflow.plan import Plan
from riskflow.settings import settings

NAMED = ("after_decode", "after_load", "after_send", "after_commit", "during_swap", "while_joining", "while_moving")
MOVES = ("while_joining", "while_moving")
SESSION_S = 10.0
FIRST, SECOND, THIRD, BESIDE = 0, 1, 2, 3  # slots; the first one always works
FAKETIME = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
]


class CannotDo(Exception):
    """This machine does not allow the fault; says why."""


@dataclass
class Stage:
    """Where faults play: the platform, the workers, who publishes and who sends."""

    plan: Plan
    platform: Platform
    fleet: Fleet
    publisher: Publisher
    pacer: Pacer
    random: random.Random
    partitions: int
    tell: Callable[[str], None]
    redis_lost: int = 0  # how often Redis lost what it had acknowledged
    done: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    compared: list[Parity] = field(default_factory=list)  # of generations that were left
    turns: Counter[str] = field(default_factory=Counter)

    def turn(self, name: str, kinds: int) -> int:
        """0, 1, ... and again: the variants of a fault take turns."""
        self.turns[name] += 1
        return (self.turns[name] - 1) % kinds


# ---- kills -----------------------------------------------------------------------------------------------------------


def kills(stage: Stage, points: list[str]) -> None:
    """kill -9 of the first worker: at a random moment, then at named points, each after it has scored."""
    fleet, named = stage.fleet, [p for p in points if p != RANDOM]
    fleet.wait_scored(FIRST, "before kills")
    time.sleep(stage.random.uniform(0.0, 1.5))
    fleet.arm(FIRST, [f"{point}:{_passes(stage, point)}" for point in named])
    so_far = {point: fleet.kills_at(point) for point in named}
    fleet.kill(FIRST)
    for point in named:
        so_far[point] += 1
        _until_killed(stage, point, so_far[point])
    only_first(stage)
    fleet.wait_scored(FIRST, "after the last kill")


def _until_killed(stage: Stage, point: str, so_far: int) -> None:
    fleet = stage.fleet

    def done() -> bool:
        return fleet.kills_at(point) >= so_far

    def ready() -> bool:
        return done() or (fleet.armed_for(FIRST, point) and fleet.tail.has_scored(FIRST))

    wait_until(ready, 180, f"a score of a worker that is armed for {point}", fleet.check)
    _trigger(stage, point)
    try:
        wait_until(done, 60, f"a kill {point}")
    except Stuck:
        stage.tell(f"  the worker did not come by {point}")
        fleet.kill(FIRST)


def _passes(stage: Stage, point: str) -> int:
    """Moves and swaps are rare: the first one counts. The others are passed many times a second."""
    return 1 if point in (*MOVES, "during_swap") else stage.random.randint(1, 30)


def _trigger(stage: Stage, point: str) -> None:
    """Brings about what the worker is to be killed in."""
    if point == "during_swap":
        stage.publisher.publish("a swap to kill in")
    elif point in MOVES:
        second = stage.fleet.slots.get(SECOND)
        if second is not None and second.wanted:
            stage.fleet.stop(SECOND)
        else:
            stage.fleet.start(SECOND)


def only_first(stage: Stage) -> None:
    """Back to one worker, which is there and awake."""
    stage.fleet.start(FIRST)
    stage.fleet.signal(FIRST, signal.SIGCONT)
    for number, slot in stage.fleet.slots.items():
        if number != FIRST and slot.wanted:
            stage.fleet.stop(number)


def start_burst(stage: Stage) -> None:
    """Five kills in a row at moments of the start-up, none of which counts: the worker has not scored yet."""
    fleet = stage.fleet
    for _ in range(5):
        fleet.kill(FIRST, "start-up")
        time.sleep(stage.random.uniform(0.2, 5.0))
    fleet.kill(FIRST, "start-up")
    fleet.wait_scored(FIRST, "after a burst of kills")


# ---- several workers -------------------------------------------------------------------------------------------------


def zombie(stage: Stage) -> None:
    """The first worker freezes until its session has ended and another has taken over; then it wakes up."""
    fleet = stage.fleet
    fleet.start(SECOND)
    fleet.wait_scored(SECOND, "a second worker")
    fleet.wait_scored(FIRST)
    process = fleet.slots[FIRST].process
    fleet.signal(FIRST, signal.SIGSTOP)
    try:
        time.sleep(SESSION_S + stage.random.uniform(2.0, 5.0))
        fleet.wait_flow("a worker froze")
    finally:
        fleet.signal(FIRST, signal.SIGCONT)
    woke_ms = time.time() * 1000
    wait_until(
        lambda: fleet.tail.of(FIRST).last_ms > woke_ms or fleet.slots[FIRST].process is not process,
        180, "the zombie's next score or end", fleet.check,
    )  # fmt: skip
    only_first(stage)
    fleet.wait_scored(FIRST, "after a zombie")


def rescale(stage: Stage) -> None:
    """1 -> 3 -> 1 workers; those that go end in good manners or by a kill, in turns."""
    fleet = stage.fleet
    fleet.start(SECOND)
    fleet.start(THIRD)
    fleet.wait_scored(SECOND, "a second worker")
    if stage.partitions % 3 == 0:  # of four, Faust leaves two to each of the first two workers, and none to the third
        fleet.wait_scored(THIRD, "a third worker")
    how = (signal.SIGTERM, signal.SIGKILL)[stage.turn("rescale", 2)]
    fleet.stop(SECOND, how)
    fleet.stop(THIRD, how)
    time.sleep(SESSION_S)
    fleet.wait_flow("two of three workers went")


def sigterm(stage: Stage) -> None:
    """An orderly stop with the broker up, then with the broker gone; each has to end within 20 s."""
    fleet = stage.fleet
    fleet.stop(FIRST)
    fleet.start(FIRST)
    fleet.wait_scored(FIRST)
    stage.platform.kill(KAFKA)
    fleet.stop(FIRST)
    stage.platform.start(KAFKA)
    fleet.start(FIRST)
    fleet.wait_scored(FIRST, "after a stop without a broker")


# ---- the broker, Redis, and the way to them --------------------------------------------------------------------------


def broker_kill(stage: Stage) -> None:
    """kill -9 of the broker, its data kept."""
    stage.platform.kill(KAFKA)
    time.sleep(stage.random.uniform(0.5, 8.0))
    stage.platform.start(KAFKA)
    stage.fleet.wait_flow("a killed broker came back")


def redis_kill(stage: Stage) -> None:
    """kill -9 of Redis, its file kept."""
    stage.platform.kill(REDIS)
    time.sleep(stage.random.uniform(0.5, 5.0))
    stage.platform.start(REDIS)
    stage.fleet.wait_flow("a killed Redis came back")


def redis_lost_second(stage: Stage) -> None:
    """Redis comes back without its last second; half of the time a swap is in it."""
    swap = stage.turn("redis_lost_second", 2)
    if swap:
        stage.publisher.publish("a swap that Redis may lose")
        time.sleep(stage.random.uniform(0.0, 1.0))
    stage.redis_lost += 1
    stage.platform.lose_last_second()
    stage.fleet.wait_flow("Redis lost a second")


def failover(stage: Stage) -> None:
    """A replica that lags takes over, and later gives back."""
    stage.redis_lost += 1
    stage.platform.fail_over()
    stage.fleet.wait_flow("a lagging replica took over")


def redis_emptied(stage: Stage) -> None:
    """Nothing is left in Redis: workers end with the command that mends it; `riskflow rebuild` does."""
    conf, fleet = settings(), stage.fleet
    archive(stage.plan, conf)
    stage.compared.append(parity(stage.plan, conf))
    stage.redis_lost += 1
    before = fleet.ends_saying("riskflow rebuild")
    stage.platform.empty()
    wait_until(lambda: fleet.ends_saying("riskflow rebuild") > before, 90, "a worker's word that Redis was emptied")
    for number in list(fleet.slots):
        fleet.stop(number)
    rebuild(stage.plan, conf)
    stage.publisher.publish("the first one after Redis was emptied")
    fleet.start(FIRST)
    fleet.wait_scored(FIRST, "after a rebuild")


def beside(stage: Stage) -> None:
    """The next generation beside the present one, with other partitions; both are killed; then over to it."""
    conf, fleet = settings(), stage.fleet
    partitions = stage.partitions + 1 + stage.turn("beside", 3)
    made = make_beside(stage.plan, conf, partitions)
    fleet.add(BESIDE, {"RISKFLOW_BESIDE": "1"})
    fleet.start(BESIDE)
    time.sleep(stage.random.uniform(5.0, 9.0))
    fleet.kill(BESIDE, "beside")
    fleet.kill(FIRST)
    done = switch(stage.plan, conf, tell=stage.tell)
    fleet.kill(BESIDE)
    stage.tell(f"  over to generation {done.generation} of {partitions} partitions; events waited {done.held_s:.2f} s "
               f"and {done.waited_s:.2f} s")  # fmt: skip
    fleet.stop(BESIDE)
    fleet.wait_scored(FIRST, "in the new generation")
    archive(stage.plan, conf)
    stage.compared.append(parity(stage.plan, conf, generation=made.behind))


def stall(stage: Stage) -> None:
    """The way to Kafka, then to Redis, stalls, slows down, is reset again and again: six turns."""
    n = stage.turn("stall", 6)
    name, how = (KAFKA, REDIS)[n % 2], ("stalls", "slows", "resets")[n // 2]
    stage.tell(f"  the way to {name} {how}")
    link = stage.platform.proxy
    try:
        if how == "stalls":
            link.tell(name, stalled=True)
            time.sleep(stage.random.uniform(3.0, 15.0))
        elif how == "slows":
            link.tell(name, delay_s=0.15)
            time.sleep(10.0)
        else:
            for _ in range(15):
                link.tell(name, reset=True)
                time.sleep(stage.random.uniform(0.1, 1.0))
            link.tell(name, open=False, reset=True)
            time.sleep(3.0)
    finally:
        link.tell(name, stalled=False, delay_s=0.0, open=True)
    stage.fleet.wait_flow(f"the way to {name} was free again")


def disk_full(stage: Stage) -> None:
    """No room where Redis writes, then where Kafka does; when there is room again, what has died is started."""
    platform = stage.platform
    if not platform.small_disks:
        raise CannotDo("mounting a small file system needs root")
    name = (REDIS, KAFKA)[stage.turn("disk_full", 2)]
    stage.tell(f"  {name} has no room")
    platform.fill_disk(name)
    time.sleep(15.0)
    platform.make_room(name)
    if platform.problem(name):
        platform.kill(name)
        platform.start(name)
    stage.fleet.wait_flow(f"{name} has room again")


# ---- bundles and clocks ----------------------------------------------------------------------------------------------


def swap(stage: Stage) -> None:
    """A new champion under load."""
    stage.publisher.publish()
    stage.fleet.wait_flow("a swap")


def publish_kill(stage: Stage) -> None:
    """Publishers that are killed half-way, three of them."""
    for _ in range(3):
        stage.publisher.publish_and_kill()
    stage.publisher.publish("after publishers were killed")
    stage.fleet.wait_flow("publishers were killed")


def publish_race(stage: Stage) -> None:
    """Two publishers at once."""
    stage.publisher.publish_two_at_once()
    stage.fleet.wait_flow("two published at once")


def clock_step(stage: Stage) -> None:
    """The worker's clock jumps an hour ahead, a day back, and is right again."""
    library = next((path for path in FAKETIME if Path(path).exists()), None)
    if library is None:
        raise CannotDo("libfaketime is not installed (apt-get install faketime)")
    fleet, clock = stage.fleet, stage.platform.home / "clock"
    slot = fleet.slots[FIRST]
    clock.write_text("+0\n")
    slot.environment = {
        "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    try:
        fleet.kill(FIRST)
        fleet.wait_scored(FIRST, "with a clock that can be set")
        for step in ("+3600", "-86400", "+5"):
            clock.write_text(f"{step}\n")
            time.sleep(4.0)
            fleet.wait_flow(f"a clock step of {step} s")
            fleet.kill(FIRST)  # it claims again, by that clock
            fleet.wait_scored(FIRST, f"with a clock that is {step} s wrong")
    finally:
        slot.environment = {}
        fleet.kill(FIRST)
    fleet.wait_scored(FIRST, "with the right clock again")


FAULTS: dict[str, Callable[[Stage], None]] = {
    "zombies": zombie, "rescales": rescale, "broker_kills": broker_kill, "redis_kills": redis_kill,
    "redis_lost_second": redis_lost_second, "redis_emptied": redis_emptied, "besides": beside, "failovers": failover,
    "stalls": stall,
    "disk_full": disk_full, "swaps": swap, "publish_kills": publish_kill, "publish_races": publish_race,
    "sigterms": sigterm, "clock_steps": clock_step, "start_bursts": start_burst,
}  # fmt: skip
CHAIN = 5  # kills in a row before another fault has its turn


def schedule(kills_wanted: int, counts: dict[str, int], seed: int) -> list[Any]:
    """All faults in a random order: names of FAULTS, and lists of points to kill at."""
    rng = random.Random(seed)
    turn = seed  # so that short runs with other seeds come by other points
    points: list[str] = []
    for i in range(kills_wanted):
        if i % CHAIN == 0:
            points.append(RANDOM)  # it starts the worker that is armed for the next one
        else:
            points.append(NAMED[turn % len(NAMED)])
            turn += 1
    chains = [points[i : i + CHAIN] for i in range(0, kills_wanted, CHAIN)]
    actions: list[Any] = [name for name, n in counts.items() for _ in range(n)]
    actions += chains
    rng.shuffle(actions)
    return actions


def play(stage: Stage, action: Any) -> None:
    """One entry of the schedule."""
    if isinstance(action, list):
        stage.tell(f"kill -9: {', '.join(action)}")
        kills(stage, action)
        return
    if action in stage.skipped:
        return
    stage.tell(action)
    try:
        FAULTS[action](stage)
        stage.done[action] += 1
    except CannotDo as error:
        stage.skipped[action] = str(error)
        stage.tell(f"  skipped: {error}")
