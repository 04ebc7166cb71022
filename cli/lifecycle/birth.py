"""Before the first retraining: services, a town, a first guess that scores, payments that stream, Airflow."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cli.demo import prepare, processes
from cli.demo.flow import watch
from cli.demo.stage import READY_S
from cli.demo.town import DAY_MS, Town
from cli.lifecycle.stage import CUSTOMERS, FUTURE_DAYS, HISTORY_DAYS, PER_DAY, RATE, USECASE, Life
from cli.lifecycle.weather import Weather
from riskflow.settings import PROJECT

USECASES = Path(__file__).parent / "usecases"
GUESS = "first_guess"


def begin(stage: Life) -> str:
    """Services, then Airflow beside everything else; the town is invented and the kernel compiled meanwhile."""
    from cli.common import load_plan
    from ops import local
    from riskflow.warmup import warm_up

    os.environ["RISKFLOW_USECASES"] = str(USECASES)
    os.environ["RISKFLOW_DAGS"] = str(_dag_folder(stage.home))
    os.environ["RISKFLOW_PARTITIONS"] = "2"  # of a small town; each archive has a file for each
    prepare.fresh_settings()
    stage.plan = load_plan(USECASE)
    stage.weather = Weather()
    with ThreadPoolExecutor(2) as pool:
        invented = pool.submit(_invent, stage.options.seed)
        compiled = pool.submit(warm_up, stage.plan)
        stage.services = stage.ending.enter_context(local.running(stage.home, airflow=False))
        stage.ending.callback(local.down, stage.home)
        prepare.publish_addresses(stage)
        stage.keeper = processes.Keeper(stage.home)
        stage.ending.callback(stage.keeper.stop)
        stage.town = invented.result()
        compiled.result()
    return f"{stage.services.kafka}, {stage.services.redis_url}"


def first_guess(stage: Life) -> str:
    """A model that looks at one count alone, from the history."""
    import msgspec

    from batch.local_chain import train_here
    from batch.run import Run

    run = Run.of(stage.plan, stage.conf, "first")
    file = msgspec.structs.replace(run.pipeline.file, candidates=[GUESS], promotion="at_once")
    done = train_here(replace(run, pipeline=replace(run.pipeline, file=file)), _nothing, who="lifecycle", why="a guess")
    stage.first = int(done["version"])
    return f"version {stage.first}, which looks at one count alone"


def stream(stage: Life) -> str:
    """Payments and labels from now on, through the weather."""
    from cli.demo.observer import Observer
    from cli.demo.sender import Sender

    stage.observer = Observer(stage.conf.kafka, stage.names)
    stage.sender = Sender(stage.conf.kafka, stage.names, stage.weather.over(stage.town.stream(RATE)))
    stage.observer.start()
    stage.ending.callback(stage.observer.stop)
    stage.ending.callback(stage.sender.end)
    stage.sender.start()
    stage.ending.enter_context(stage.screen.streaming(stage.observer.view))
    watch(stage, lambda: len(stage.observer.scored) > 0, READY_S, "the first score")
    return f"{RATE:.0f} a second, a day of the town in {CUSTOMERS * PER_DAY / RATE:.0f} s"


def airflow(stage: Life) -> str:
    """Waits until it is well."""
    from batch.airflow_client import Airflow

    with ThreadPoolExecutor(1) as pool:
        address = pool.submit(stage.keeper.address)
        watch(stage, address.done, READY_S * 2, "Airflow")
    os.environ["RISKFLOW_AIRFLOW_URL"] = stage.addresses["airflow"] = address.result()
    stage.conf = prepare.fresh_settings()
    stage.airflow = Airflow.of(stage.conf)
    return stage.addresses["airflow"]


def _invent(seed: int) -> Town:
    """Labels come within a day and a half."""
    import time

    from batch.simulate import Delays, Shares, simulate

    days = HISTORY_DAYS + FUTURE_DAYS
    start_ms = int(time.time() * 1000) - days * DAY_MS
    delays = Delays(chargeback_median_ms=DAY_MS // 2, chargeback_most_ms=3 * DAY_MS // 2, genuine_ms=3 * DAY_MS // 2)
    shares = Shares(stolen_card=0.045, compromised_terminal=0.0, card_testing=0.01)
    world = simulate(seed, start_ms, days, CUSTOMERS, CUSTOMERS // 2, per_day=PER_DAY, shares=shares, delays=delays)
    return Town(world, start_ms + HISTORY_DAYS * DAY_MS)


def _dag_folder(home: Path) -> Path:
    """One with the town's DAGs alone."""
    folder = home / "dags"
    folder.mkdir(exist_ok=True)
    (folder / "riskflow_dags").symlink_to(PROJECT / "dags" / "riskflow_dags")
    told = (PROJECT / "dags" / "card_fraud.py").read_text()
    (folder / f"{USECASE}.py").write_text(told.replace("card_fraud", USECASE))
    return folder


def _nothing(*_: str) -> None:
    """Say nothing."""
