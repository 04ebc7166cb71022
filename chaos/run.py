"""One run: services, workers, a world that flows, faults in a random order, then everything is counted."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil

from batch import topics as batch_topics
from batch.generations import Generations, present_generation
from batch.topics import Cluster
from chaos.faults import FIRST, Stage, kills, only_first, play, schedule
from chaos.fleet import RANDOM, Fleet, wait_until
from chaos.pacer import Pacer
from chaos.platform import Platform, platform
from chaos.publisher import Publisher
from chaos.tail import Tail
from chaos.verdict import Judge, Verdict
from chaos.world import World
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import settings
from riskflow.usecase import load_usecase
from riskflow.warmup import warm_up

REST_S = 900.0
MOST_MEMORY_MB, MOST_FILES = 1_500, 256  # of one worker
SAMPLE_S = 1.0


@dataclass(frozen=True)
class Options:
    """What a run is made of."""

    usecase: str = "card_fraud"
    events: int = 20_000
    kills: int = 10
    seed: int = 1
    per_s: float = 3_000.0
    partitions: int = 6
    entities: int = 2_000
    hot: bool = False
    faults: dict[str, int] = field(default_factory=dict)  # names of chaos.faults.FAULTS


class Sampler(threading.Thread):
    """The most memory and open files that a worker ever had."""

    def __init__(self, fleet: Fleet, place: Platform) -> None:
        super().__init__(daemon=True, name="sampler")
        self.memory_mb = self.files = 0
        self._fleet, self._place = fleet, place
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            for process in self._fleet.working():
                try:
                    self.memory_mb = max(self.memory_mb, process.memory_info().rss >> 20)
                    self.files = max(self.files, process.num_fds())
                except psutil.Error:
                    continue

    def close(self) -> None:
        self._ended.set()
        self.join(5)


def run(options: Options, tell: Callable[[str], None]) -> dict[str, Any]:
    """Everything from an empty folder to the report; `clean` says whether all held."""
    plan = Plan.of(load_usecase(options.usecase, settings().usecases))
    warm_up(plan)  # a worker's first start compiles; that is not what is measured here
    began = time.monotonic()
    with platform(tell, small_disks=bool(options.faults.get("disk_full"))) as place:
        return Run(plan, options, place, tell).run() | {"seconds": round(time.monotonic() - began)}


class Run:
    """A run on services that are there already."""

    def __init__(self, plan: Plan, options: Options, place: Platform, tell: Callable[[str], None]) -> None:
        self.plan, self.options, self.place, self.tell = plan, options, place, tell
        conf = settings()
        batch_topics.make(plan, conf, options.partitions)
        self.names = Names(plan.name, prefix=conf.topic_prefix)
        self.publisher = Publisher(plan, place.store(), place.home, options.seed)
        self.publisher.publish("the first")
        self.world = World.of(plan, options.events, options.seed, options.entities, options.hot)
        self.tail = Tail(conf.kafka, self.names.scores)
        self.fleet = Fleet(plan.name, place.for_workers, self.tail, place.home / "logs")
        self.pacer = Pacer(
            self.world.messages(), options.events, conf.kafka, self.names.feed, options.partitions, options.per_s
        )
        self.sampler = Sampler(self.fleet, place)
        self.stage = Stage(
            plan, place, self.fleet, self.publisher, self.pacer, random.Random(options.seed), options.partitions,
            self._say,
        )  # fmt: skip
        self.troubles: list[str] = []
        self._began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Faults, then the rest of the events, then the verdict."""
        try:
            self._tried(self._begin)
            self._play()
            finished = self._tried(self._finish)
            self.fleet.close()
            verdict = self._judge() if finished else Verdict()
        finally:
            self.tail.close()
            self.sampler.close()
            self.fleet.close()
        return self._report(verdict)

    def _tried(self, part: Callable[[], None]) -> bool:
        """Whether a part of the run came to its end; if not, it is told, mended, and what is left is done."""
        try:
            part()
        except Exception as error:  # one fault that hangs must not hide what the others show
            self.troubles.append(str(error) or repr(error))
            self._say(f"TROUBLE: {self.troubles[-1]}")
            self._show_logs()
            self.place.mend()
            return False
        return True

    def _begin(self) -> None:
        self.pacer.allowed = 0.01
        for thread in (self.tail, self.sampler, self.pacer):
            thread.start()
        self.fleet.start(FIRST)
        self.fleet.wait_scored(FIRST, "the first score")

    def _play(self) -> None:
        actions = schedule(self.options.kills, self.options.faults, self.options.seed)
        weights = [len(a) if isinstance(a, list) else 1 for a in actions]
        for i, action in enumerate(actions):
            self.pacer.allowed = 0.98 * sum(weights[: i + 1]) / sum(weights)
            if not self._tried(partial(play, self.stage, action)):
                self._tried(partial(only_first, self.stage))
        for _ in range(self.options.kills):
            if sum(self.fleet.ends.counted.values()) >= self.options.kills:
                break
            self._say("a kill more, for one that did not count")
            self._tried(partial(kills, self.stage, [RANDOM]))

    def _finish(self) -> None:
        self._say("the rest of the events")
        only_first(self.stage)
        self.pacer.finish()
        wait_until(self._at_rest, REST_S, "scoring everything", self.fleet.check)
        self.fleet.stop(FIRST)

    def _at_rest(self) -> bool:
        """Every stage has applied all of its log."""
        time.sleep(0.5)
        conf, store = settings(), self.place.store()
        names = Generations(self.plan, self.names, conf.lake_folder).at(self._generation())
        with Cluster(conf.kafka) as cluster:
            stages = {topic: stage for stage, topic, _ in batch_topics.stages(self.plan, names)}
            there = cluster.topics()
            ranges = cluster.log_ranges({topic: there[topic][1] for topic in stages})
        heads = [(names.head(stages[topic], p), end) for (topic, p), (_, end) in ranges.items()]
        return all(int(store.hget(head, "position") or -1) == end for head, end in heads)

    def _generation(self) -> int:
        conf = settings()
        return present_generation(self.place.store(), Generations(self.plan, self.names, conf.lake_folder))

    def _judge(self) -> Verdict:
        self._say("counting")
        self.publisher.look()
        judge = Judge(self.plan, settings(), self.publisher, self.place.store())
        out = judge.judge(self.pacer.sent, self.stage.redis_lost, self.stage.compared)
        out.wrong["unknown_keys"] = len(self._unknown_keys())
        out.wrong["too_much_memory"] = int(self.sampler.memory_mb > MOST_MEMORY_MB)
        out.wrong["too_many_files"] = int(self.sampler.files > MOST_FILES)
        out.wrong["registry_problems"] = len(self.publisher.problems)
        out.examples += self.publisher.problems[:5]
        out.wrong["slow_stops"] = sum(s > 20.0 for s in self.fleet.ends.stop_s)
        return out

    def _unknown_keys(self) -> list[str]:
        """Keys in Redis that riskflow/names.py does not know: they would grow without a bound."""
        known = {self.names.current_generation, self.names.versions, self.names.aliases, self.names.history}
        known |= {self.names.bundle(v) for v in self.publisher.registry.versions()}
        with Cluster(settings().kafka) as cluster:
            there = cluster.topics()
        for g in range(1, self._generation() + 1):
            names = Names(self.plan.name, g, self.names.prefix)
            for stage, topic, _ in batch_topics.stages(self.plan, names):
                for p in range(there[topic][1] if topic in there else 0):
                    known |= {names.head(stage, p), names.records(stage, p)}
        return [k.decode() for k in self.place.store().scan_iter(count=1000) if k.decode() not in known]

    def _report(self, verdict: Verdict) -> dict[str, Any]:
        ends, wrong = self.fleet.ends, verdict.wrong
        counted = sum(ends.counted.values())
        recovery = sorted(ends.recovery_s)
        done = {name: n for name, n in self.stage.done.items() if n}
        short = counted < self.options.kills
        return {
            "clean": verdict.clean and not self.troubles and not short,
            "events": verdict.events,
            "scored": verdict.scored,
            "missing": wrong.get("missing", 0),
            "extra": wrong.get("extra", 0),
            "differing_scores": wrong.get("scores_sent_differently", 0) + wrong.get("scores_not_of_their_bundle", 0),
            "differing_rows": wrong.get("differing_features", 0) + wrong.get("rows_sent_differently", 0)
            + wrong.get("differing_records", 0),
            "kills": counted + sum(ends.in_vain.values()),
            "kills_counted": counted,
            "recovery_p50_s": round(statistics.median(recovery), 2) if recovery else None,
            "recovery_max_s": round(recovery[-1], 2) if recovery else None,
            "seed": self.options.seed,
            "failure_below_at_95": round(1 - 0.05 ** (1 / counted), 4) if counted else None,
            "counted_by_point": dict(sorted(ends.counted.items())),
            "not_counted_by_point": dict(sorted(ends.in_vain.items())),
            "faults": done,
            "skipped": self.stage.skipped,
            "messages": self.pacer.sent,
            "swaps_published": self.publisher.swaps,
            "wrong": {k: v for k, v in wrong.items() if v},
            "counts": verdict.counts,
            "examples": verdict.examples[:20],
            "troubles": self.troubles,
            "worker_ends": dict(ends.codes.most_common(12)),
            "most_memory_mb": self.sampler.memory_mb,
            "most_open_files": self.sampler.files,
            "stop_max_s": round(max(ends.stop_s, default=0.0), 1),
            "entities": self.options.entities,
        }  # fmt: skip

    def _say(self, what: str) -> None:
        sent = f"{self.pacer.events:,} of {self.options.events:,} events"
        counted = sum(self.fleet.ends.counted.values())
        self.tell(f"[{time.monotonic() - self._began:6.0f} s, {sent}, {counted} kills counted] {what}")

    def _show_logs(self) -> None:
        for slot in self.fleet.slots.values():
            for line in slot.log.read_text(errors="replace").splitlines()[-25:]:
                self.tell(f"  worker {slot.number}: {line[:400]}")
