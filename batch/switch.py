"""`riskflow switch`: goes over from one generation to the one that was made beside it, while events flow.

    wait     until the new generation is as far as the old one, and the champion can be used with its plan
    cut      each partition of each feed at one offset: the old generation takes nothing from there on
    let in   the new generation, when it has counted everything before the cut in every feed
    drain    the old one: what it took is scored by it
    close    its heads for good; workers that start now take the new one

A cut is made on the old intake's head alone, in one script; what is taken is asked of the same head (stream/gate.py).
Every step may be done again: a run that is killed is continued by the next. At the end everything is looked at once
more, after the time in which Redis may lose what it has said; what it lost is done again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from batch.generations import Cut, Generations, present_generation
from batch.handover import close
from batch.heads import At, Passing, positions, read_heads
from batch.stopped import members
from batch.topics import Cluster, check_redis, stages
from riskflow.bundle import verify
from riskflow.connect import connect
from riskflow.errors import NotReady, RiskflowError
from riskflow.keys import load_public_keys
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.registry import Registry
from riskflow.settings import Settings
from riskflow.state import BEHIND, HELD_UNTIL_MS, LEFT_FOR, UNTIL

HOLD_MS = 2_000  # at most: as soon as the cut is made, it is over
LAG_S, LOOK_S = 0.3, 0.1
DRAIN_S = 120.0
LOST_S = 2.0  # Redis writes its file every second
TRIES = 5

HOLD = f"""
local cut = redis.call('HGET', KEYS[1], '{UNTIL}')
if cut then return cut end
local now = redis.call('TIME')
local held = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1]
redis.call('HSET', KEYS[1], '{HELD_UNTIL_MS}', string.format('%.0f', held))
return false
"""
CUT = f"""
local stored = redis.call('HMGET', KEYS[1], '{UNTIL}', '{HELD_UNTIL_MS}')
if stored[1] then return stored[1] end
local now = redis.call('TIME')
if tonumber(stored[2] or 0) <= now[1] * 1000 + math.floor(now[2] / 1000) then return false end
redis.call('HSET', KEYS[1], '{UNTIL}', ARGV[1])
redis.call('HDEL', KEYS[1], '{HELD_UNTIL_MS}')
return ARGV[1]
"""


@dataclass
class Switched:
    """What was done, for people; times in seconds."""

    generation: int
    left: int
    held_s: float = 0.0  # the old generation took nothing
    waited_s: float = 0.0  # from the cut until the new one was let in
    drained_s: float = 0.0  # from the cut until the old one had scored the rest
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in self.__dict__.items()}


def switch(plan: Plan, conf: Settings, *, timeout_s: float = 600.0, tell: Callable[[str], None] = print) -> Switched:
    """Goes over to the generation that `riskflow rebuild --beside` made, and whose workers run.

    Raises RiskflowError when there is none or the champion cannot be used with it, NotReady when it does not come on.
    """
    started = time.monotonic()
    store = connect(conf.redis_url)
    check_redis(store, conf.redis_url)
    with Cluster(conf.kafka) as cluster:
        out = _Job(plan, conf, store, cluster, tell).run(timeout_s)
    out.seconds = time.monotonic() - started
    return out


class _Job:
    """One run."""

    def __init__(self, plan: Plan, conf: Settings, store: Any, cluster: Cluster, tell: Callable[[str], None]) -> None:
        self.plan, self.conf, self.store, self.cluster, self.tell = plan, conf, store, cluster, tell
        self.bare = Names(plan.name, prefix=conf.topic_prefix)
        self.generations = Generations(plan, self.bare, conf.lake_folder)
        number = store.get(self.bare.beside)
        if number is None:
            raise RiskflowError(
                f"no generation is made beside the present one. Run `riskflow rebuild {plan.name} --beside`, then "
                f"`riskflow worker {plan.name} --beside`."
            )
        self.new = self.generations.at(int(number))
        self.old = self.generations.at(self.generations.start(self.new.generation).before or 0)
        self.there = cluster.topics()
        self.feeds: list[At] = [
            (f.name, p) for f in plan.usecase.feeds for p in range(self.there[self.bare.feed(f.name)][1])
        ]
        self.behind = Passing(store, plan, self.new, conf.kafka)
        self.ahead = Passing(store, plan, self.old, conf.kafka)

    def run(self, timeout_s: float) -> Switched:
        """All steps; those that were done already are passed."""
        out = Switched(self.new.generation, self.old.generation)
        self._check_layout()
        self._check_champion()
        cut = self._cut_before()
        if cut is None:
            self._wait_caught_up(timeout_s)
            began = time.monotonic()
            cut = self._cut()
            out.held_s = time.monotonic() - began
        for _ in range(TRIES):
            self._go_over(cut, out)
            time.sleep(LOST_S)
            if self._stands(cut):
                return out
            self.tell("Redis has lost what was written last; it is done again")
            self._say_again(cut)
        raise NotReady(f"Redis at {self.conf.redis_url} loses what is written again and again. See `riskflow doctor`.")

    # wait

    def _check_layout(self) -> None:
        layouts = {h["layout"] for h in read_heads(self.store, self.plan, self.new, self.there).values()}
        if layouts != {self.plan.layout_fingerprint}:
            raise RiskflowError(
                f"generation {self.new.generation} was made for other windows than this use case has. Run this where "
                "`riskflow rebuild --beside` was run, or cancel it and make another."
            )

    def _check_champion(self) -> None:
        """Else the new generation would wait for a bundle while events queue."""
        move = Registry(self.store, self.bare).champion()
        if move is None:
            raise NotReady(f"no bundle has been published. Run `riskflow retrain {self.plan.name}`.")
        raw = Registry(self.store, self.bare).raw(move.version)
        verify(raw, load_public_keys(self.conf.keys_folder), plan=self.plan)

    def _wait_caught_up(self, timeout_s: float) -> None:
        """Until all stages of the new generation have applied what stood on their logs a moment ago."""
        until, said = time.monotonic() + timeout_s, time.monotonic()
        looks: deque[tuple[float, dict[At, int]]] = deque()
        while True:
            now = time.monotonic()
            looks.append((now, self._ends()))
            passed = [at for at, ends in looks if not self.behind.left(ends)]
            lag_s = now - passed[-1] if passed else float("inf")
            if lag_s <= LAG_S:
                return
            while len(looks) > 2 and looks[1][0] < now - 10 * LAG_S:
                looks.popleft()
            if now > until:
                raise NotReady(self._not_caught_up())
            if now - said > 5.0:
                said = now
                self.tell(f"generation {self.new.generation} has {self._to_do():,} messages to go")
            time.sleep(LOOK_S)

    def _not_caught_up(self) -> str:
        working = ", ".join(members(self.cluster, self.new.group)) or "none"
        return (
            f"generation {self.new.generation} has not caught up: {self._to_do():,} messages to go; its workers: "
            f"{working}. Start more of them: riskflow worker {self.plan.name} --beside"
        )

    def _ends(self) -> dict[At, int]:
        """Where the logs of the new generation's stages end."""
        topics = {stage: topic for stage, topic, _ in stages(self.plan, self.new)}
        ranges = self.cluster.log_ranges({t: self.there[t][1] for t in topics.values()})
        return {(s, p): ranges[t, p][1] for s, t in topics.items() for p in range(self.there[t][1])}

    def _to_do(self) -> int:
        ends = {at: end for at, end in self._ends().items() if at in self.feeds}
        now = positions(self.store, self.new, ends)
        return sum(max(0, end - now[at]) for at, end in ends.items())

    # cut

    def _cut_before(self) -> dict[At, int] | None:
        """Where an earlier run cut, if it came to cut everything."""
        found = {at: self.store.hget(self.old.head(*at), UNTIL) for at in self.feeds}
        return None if any(v is None for v in found.values()) else {at: int(v) for at, v in found.items()}

    def _cut(self) -> dict[At, int]:
        hold, cut = self.store.register_script(HOLD), self.store.register_script(CUT)
        done: dict[At, int] = {}
        with _Ends(self.conf.kafka, {at: self.old.feed(at[0]) for at in self.feeds}) as logs:
            for _ in range(TRIES):
                for at in self.feeds:
                    hold([self.old.head(*at)], [HOLD_MS])
                for at, end in logs.now().items():  # nobody takes anything while it is held, so nobody is beyond
                    found = cut([self.old.head(*at)], [end])
                    done |= {} if found is None else {at: int(found)}
                if len(done) == len(self.feeds):
                    return done
        raise NotReady(f"Kafka at {self.conf.kafka} answers too slowly to cut the feeds. Run this again.")

    # let in, drain, close

    def _go_over(self, cut: dict[At, int], out: Switched) -> None:
        began = time.monotonic()
        offsets: dict[str, dict[str, int]] = {}
        for (feed, p), end in cut.items():
            offsets.setdefault(feed, {})[str(p)] = end
        self.generations.write_cut(self.new.generation, Cut(offsets))
        self.behind.wait(cut, DRAIN_S, self._waits_for("new", self.new))
        for at in self.feeds:
            self.store.hdel(self.new.head(*at), BEHIND)
        out.waited_s += time.monotonic() - began
        self._drain(cut)
        out.drained_s += time.monotonic() - began
        self._close()
        self.generations.write_cut(self.new.generation, Cut(offsets, over=True))
        self.store.set(self.bare.current_generation, self.new.generation)
        self.store.delete(self.bare.beside)

    def _drain(self, cut: dict[At, int]) -> None:
        self.ahead.wait(cut, DRAIN_S, self._waits_for("old", self.old))
        for stage, topic, internal in stages(self.plan, self.old):
            if internal:
                ranges = self.cluster.log_ranges({topic: self.there[topic][1]})
                ends = {(stage, p): end for (_, p), (_, end) in ranges.items()}
                self.ahead.wait(ends, DRAIN_S, self._waits_for("old", self.old))

    def _waits_for(self, which: str, names: Names) -> Callable[[str], str]:
        def words(where: str) -> str:
            return (
                f"the {which} generation {names.generation} does not go on ({where}), and events wait for it. See that "
                f"its workers run, then run `riskflow switch {self.plan.name}` again."
            )

        return words

    def _close(self) -> None:
        for _ in range(TRIES):
            heads = read_heads(self.store, self.plan, self.old, self.there)
            left = {self.old.head(*at): head for at, head in heads.items() if LEFT_FOR not in head}
            if close(self.store, left, self.new.generation):
                return
            time.sleep(LOOK_S)  # a worker has just claimed them
        raise NotReady(self._waits_for("old", self.old)("its heads change again and again"))

    # look once more

    def _stands(self, cut: dict[At, int]) -> bool:
        heads = read_heads(self.store, self.plan, self.old, self.there)
        new = read_heads(self.store, self.plan, self.new, self.there)
        return (
            all(int(heads[at].get(UNTIL, -1)) == end for at, end in cut.items())
            and all(LEFT_FOR in head for head in heads.values())
            and not any(BEHIND in head for head in new.values())
            and present_generation(self.store, self.generations) == self.new.generation
            and self.store.get(self.bare.beside) is None
        )

    def _say_again(self, cut: dict[At, int]) -> None:
        """The cut that Redis has lost: the old generation goes no further, wherever it is by now."""
        for at, end in cut.items():
            self.store.hset(self.old.head(*at), UNTIL, end)


class _Ends:
    """Where the readable part of logs ends now, asked over one connection."""

    def __init__(self, kafka: str, topics: dict[At, str]) -> None:
        self._tps = {TopicPartition(topic, at[1]): at for at, topic in topics.items()}
        self._consumer = KafkaConsumer(bootstrap_servers=kafka.split(","), isolation_level="read_committed")

    def __enter__(self) -> _Ends:
        self.now()  # connects
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def now(self) -> dict[At, int]:
        return {self._tps[tp]: end for tp, end in self._consumer.end_offsets(list(self._tps)).items()}
