"""While payments flow: the live table, Airflow beside it, a retraining, the swap, and the last score."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cli.demo import processes
from cli.demo.stage import READY_S, Stage, figures

SWAP_S = 60.0
DRAIN_S = 60.0
RETRAIN_S = 900.0


def stream(stage: Stage) -> str:
    """Payments and labels from now on; the observer stands at the topics' ends before the first one."""
    from cli.demo.observer import Observer
    from cli.demo.sender import Sender

    stage.observer = Observer(stage.conf.kafka, stage.names)
    stage.sender = Sender(stage.conf.kafka, stage.names, stage.town.stream(stage.options.rate))
    stage.observer.start()
    stage.ending.callback(stage.observer.stop)
    stage.ending.callback(stage.sender.end)
    stage.sender.start()
    stage.streaming_since = time.monotonic()
    stage.ending.enter_context(stage.screen.streaming(stage.observer.view))
    watch(stage, lambda: len(stage.observer.scored) > 0, READY_S, "the first score")
    stage.facts["first live score"] = f"{stage.passed_s:.0f} s after the start"
    return f"{stage.options.rate:.0f} a second; first score {stage.facts['first live score']}"


def start_airflow(stage: Stage) -> str:
    """Scheduler, DAG processor and API server, while events flow."""
    if not stage.options.airflow:
        return "left out (--no-airflow): the same steps run without it"
    keeper = processes.Keeper(stage.home)
    stage.ending.callback(keeper.stop)
    with ThreadPoolExecutor(1) as pool:
        address = pool.submit(keeper.address)
        watch(stage, address.done, READY_S * 2, "Airflow")
    os.environ["RISKFLOW_AIRFLOW_URL"] = stage.addresses["airflow"] = address.result()
    return stage.addresses["airflow"]


def retrain(stage: Stage) -> str:
    """`riskflow retrain`, over Airflow's REST API or here; on what has streamed by now."""
    words = ["retrain", stage.plan.name, "--why", "the demo has seen new payments", "--json"]
    command = processes.Command(words + ([] if stage.options.airflow else ["--local"]), stage.screen.remark)
    stage.ending.callback(command.stop)
    watch(stage, lambda: not command.running(), RETRAIN_S, "the retraining")
    stage.published = command.result()
    stage.screen.remark("")
    stage.facts["second bundle"] = figures(stage.published)
    return stage.facts["second bundle"]


def swap(stage: Stage) -> str:
    """From the moment the alias moved to the first score by the new version, while events flow."""
    from riskflow.connect import connect
    from riskflow.registry import Registry

    version = int(stage.published["version"])
    moves = Registry(connect(stage.conf.redis_url), stage.names).history("champion")
    moved_ms = next(move.at_ms for move in reversed(moves) if move.version == version)
    watch(stage, lambda: version in stage.observer.first_ms, SWAP_S, f"a score by version {version}")
    stage.swap_s = round((stage.observer.first_ms[version] - moved_ms) / 1000, 3)
    return f"──── bundle {version} ──── first score {stage.swap_s:.2f} s after publishing"


def stream_on(stage: Stage) -> str:
    """A few seconds with the new model, and as long as was asked for."""
    until = max(time.monotonic() + 5, stage.streaming_since + stage.options.seconds)
    watch(stage, lambda: time.monotonic() > until, 3600, "the end")
    return f"{len(stage.sender.events):,} payments, {stage.sender.labels:,} labels"


def drain(stage: Stage) -> str:
    """Sending ends; every payment gets its score, or is lost."""
    stage.sender.stop()
    wanted, observer = stage.sender.events, stage.observer
    deadline = time.monotonic() + DRAIN_S
    while len(observer.scored) < len(wanted) and time.monotonic() < deadline:
        stage.screen.tick()
        time.sleep(0.2)
    time.sleep(1.0)  # for scores that come twice
    return f"{len(observer.scored):,} scores"


def watch(stage: Stage, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Keeps the screen alive until something has happened; whatever stops the stream is told."""
    from riskflow.errors import NotReady

    deadline = time.monotonic() + timeout_s
    while not condition():
        stage.sender.check()
        if not stage.worker.alive() or time.monotonic() > deadline:
            who = "the worker ended" if not stage.worker.alive() else f"{what} did not come within {timeout_s:.0f} s"
            raise NotReady(f"{who}. {processes.log_end(stage.home, 'worker')}")
        stage.screen.tick()
        time.sleep(0.1)
