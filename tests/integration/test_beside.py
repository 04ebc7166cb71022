"""A generation beside the present one: made, caught up and gone over to while events flow."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch import lake, topics
from batch import switch as switching
from batch.archive import archive
from batch.beside import cancel, make_beside
from batch.generations import Generations
from batch.parity import parity
from batch.rebuild import rebuild
from batch.switch import switch
from ops.local import Services
from riskflow.errors import NotReady, RiskflowError
from riskflow.plan import Plan
from riskflow.settings import PROJECT, settings
from riskflow.state import UNTIL
from riskflow.warmup import warm_up
from stream import supervise
from tests import support
from tests.chaos.world import Pacer, World, make_world
from tests.integration import batch_cases as cases

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
LEAVES = 4
PER_S = 250.0
MORE = """
from riskflow.declare import Sum, Windows
customer_long = Windows(by=customer, over=["60d"], amount=[Sum()])
"""


@contextmanager
def another_window(folder: Path) -> Iterator[Plan]:
    """The same use case with a window more, in a folder of its own, as a team would check it out beside the old one."""
    shutil.copytree(PROJECT / "usecases", folder)
    features = folder / "card_fraud" / "features.py"
    features.write_text(features.read_text() + MORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RISKFLOW_USECASES", str(folder))
        settings.cache_clear()
        try:
            yield support.plan_of()
        finally:
            for name in [n for n in sys.modules if n == "usecases" or n.startswith("usecases.")]:
                del sys.modules[name]
    settings.cache_clear()


class Workers:
    """Workers that are started again when they are killed."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, slot: int, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as file:
            self.running[slot] = supervise.start("card_fraud", slot, stderr=file, **environment)
        return self.running[slot]

    def close(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(20)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path / "worker.log")
    yield made
    made.close()
    if made.log.exists():
        print(made.log.read_text()[-4000:])


def scored(plan: Plan) -> int:
    names = support.names_of(plan)
    with topics.Cluster(settings().kafka) as cluster:
        partitions = cluster.topics()[names.scores][1]
        return sum(end for _, end in cluster.log_ranges({names.scores: partitions}).values())


def sent_while(world: World) -> Pacer:
    """Messages at a steady rate; the second half only trickles until `finish`."""
    pacer = Pacer(world, settings().kafka, settings().topic_prefix, "card_fraud", PER_S)
    pacer.allowed = 0.5
    pacer.start()
    return pacer


def finish(pacer: Pacer) -> None:
    assert pacer.is_alive(), "events flowed all the time"
    pacer.allowed = 1.0
    pacer.join()
    assert pacer.error is None


def check_everything(plan: Plan, old_plan: Plan, generation: int, left: int, *worlds: World) -> None:
    """Each message once, by one of the two; rows and records of both are those of a replay."""
    archive(plan, settings())
    for of, number in ((plan, generation), (old_plan, left)):
        found = parity(of, settings(), records=number == generation, generation=number)
        assert found.equal, (number, found.summary(), found.missing_rows[:5])
        assert found.unfinished == 0
    assert cases.row_ids(plan) == cases.expected_ids(*worlds)
    names, folder = support.names_of(plan), settings().lake_folder
    scores = lake.read_topic(folder, names.scores)
    assert set(scores["event_id"]) == {i for w in worlds for i in w.ids("score")}
    rejected = lake.read_topic(folder, names.rejected)
    assert sorted(set(rejected["_key"])) == sorted(rejected["_key"])
    assert len(rejected) == sum(len(w.ids("rejected")) for w in worlds)


def test_a_window_and_the_partitions_change_while_events_flow(
    services: Services, tmp_path: Path, workers: Workers
) -> None:
    with cases.prefixed("beside."):
        plan = cases.prepared(partitions=2)
        world = make_world(4_000, seed=3, customers=40, terminals=20)
        before = World(world.messages[:400])
        cases.produce(before.messages)
        old = workers.start(0)
        cases.wait_until(lambda: scored(plan) > 100)
        with another_window(tmp_path / "new") as changed:
            warm_up(changed)
            pacer = sent_while(World(world.messages[400:]))
            made = make_beside(changed, settings(), partitions=3)
            assert (made.generation, made.behind, made.partitions) == (2, 1, 3)
            with pytest.raises(RiskflowError, match="is made beside"):
                make_beside(changed, settings())
            with pytest.raises(NotReady, match=r"has not caught up.*its workers: none"):
                switch(changed, settings(), timeout_s=0.5)
            workers.start(1, RISKFLOW_BESIDE="1")
            done = switch(changed, settings())
            print(done.summary())
            assert old.wait(30) == LEAVES, "its supervisor starts it again, in the new generation"
            finish(pacer)
            cases.wait_until(lambda: cases.at_rest(changed))
            workers.close()
            check_everything(changed, plan, 2, 1, world)
            scores = lake.read_topic(settings().lake_folder, support.names_of(plan).scores)
            assert len(scores) == scores["event_id"].n_unique(), "nobody died, so nothing was sent twice"
            check_who_scored(changed, scores)
            rows = lake.read_rows(changed, support.names_of(changed), settings().lake_folder)
            assert rows["customer_long_amount_sum_60d"].max() > 0
            check_next_rebuild(changed)


def check_who_scored(plan: Plan, scores: Any) -> None:
    """The old generation everything before the cut, the new one the rest: its partitions are three."""
    cut = Generations(plan, support.names_of(plan), settings().lake_folder).cut(2)
    assert cut is not None
    assert cut.over
    later = 0
    for row in scores.iter_rows(named=True):
        positions = lake.json.loads(row["positions"])
        partition, offset, _ = positions["events"].split("/")
        if int(offset) >= cut.feeds["events"][partition]:
            later += 1
        else:
            assert int(positions["customer_id"].split("/")[0]) < 2
    assert 0 < later < len(scores)
    ms = np.sort(scores["_broker_ms"].to_numpy())
    print(f"longest time without a score: {np.diff(ms)[len(ms) // 10 :].max()} ms")


def check_next_rebuild(plan: Plan) -> None:
    """What it began with and what it counted for the other are found again."""
    before = cases.records(plan, cases.names_now(plan))
    rebuild(plan, settings())
    assert cases.records(plan, cases.names_now(plan)) == before


def test_both_are_killed_while_one_takes_over_from_the_other(
    services: Services, tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cases.prefixed("besidekilled."):
        plan = cases.prepared(partitions=2)
        world = make_world(4_000, seed=4, customers=40, terminals=20)
        cases.produce(world.messages[:200])
        workers.start(0)
        cases.wait_until(lambda: scored(plan) > 50)
        pacer = sent_while(World(world.messages[200:]))
        make_beside(plan, settings(), partitions=3)
        assert cancel(plan, settings()) == 2
        made = make_beside(plan, settings(), partitions=4)
        workers.start(1, RISKFLOW_BESIDE="1")
        go_over = switching._Job._go_over
        killed: list[int] = []

        def kill_first(job: Any, *arguments: Any) -> None:
            for slot, environment in ((0, {}), (1, {"RISKFLOW_BESIDE": "1"})) if not killed else ():
                workers.running[slot].kill()
                workers.running[slot].wait()
                killed.append(slot)
                workers.start(slot, **environment)
            go_over(job, *arguments)

        def lose_some(job: Any, cut: Any) -> bool:
            """The first time Redis comes back without the cut of one partition."""
            if len(killed) == 2:
                killed.append(-1)
                job.store.hdel(job.old.head("events", 0), UNTIL)
            return bool(stands(job, cut))

        stands = switching._Job._stands
        monkeypatch.setattr(switching._Job, "_go_over", kill_first)
        monkeypatch.setattr(switching._Job, "_stands", lose_some)
        said: list[str] = []
        done = switch(plan, settings(), tell=said.append)
        assert any("lost" in line for line in said)
        print(done.summary())
        finish(pacer)
        cases.wait_until(lambda: cases.at_rest(plan))
        workers.close()
        check_everything(plan, plan, made.generation, 1, world)


@pytest.mark.long
def test_a_switch_that_is_killed_is_run_again(
    services: Services, tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cases.prefixed("besideagain."):
        plan = cases.prepared(partitions=2)
        with pytest.raises(RiskflowError, match="no generation is made beside"):
            switch(plan, settings())
        world = make_world(3_000, seed=5, customers=40, terminals=20)
        cases.produce(world.messages[:200])
        workers.start(0)
        cases.wait_until(lambda: scored(plan) > 50)
        pacer = sent_while(World(world.messages[200:]))
        made = make_beside(plan, settings())
        workers.start(1, RISKFLOW_BESIDE="1")

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(switching._Job, "_go_over", killed)
            with pytest.raises(KeyboardInterrupt):
                switch(plan, settings())
        with pytest.raises(RiskflowError, match=r"is made beside|riskflow switch"):
            rebuild(plan, settings())
        time.sleep(1.0)  # events wait at the cut meanwhile
        switch(plan, settings())
        finish(pacer)
        cases.wait_until(lambda: cases.at_rest(plan))
        workers.close()
        check_everything(plan, plan, made.generation, 1, world)
