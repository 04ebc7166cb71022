"""Runs the steps one after another, sums up, and takes everything down again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cli.demo.observer import percentile
from cli.demo.screen import Screen
from cli.demo.stage import Options, Stage
from cli.demo.steps import STEPS
from riskflow.errors import NotReady

MARK = "made-by-riskflow-demo"


def play(options: Options, as_json: bool) -> bool:
    """True when nothing was lost and nothing differs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended like by Ctrl-C: nothing stays behind
    with ExitStack() as ending:
        stage = Stage(options, fresh_home(), Screen(), ending)
        for title, step in STEPS:
            stage.screen.begin(title)
            stage.screen.say(f"{title}: {step(stage)}")
        found = summary(stage)
        stage.screen.table("What happened", {**stage.facts, **_told(found, stage)}, data=not as_json)
        stage.screen.table("Where to look", where_to_look(stage), data=not as_json)
        if options.keep:
            _keep(stage)
    if as_json:
        print(json.dumps(found))
    return not (found["lost"] or found["differing"] or found["parity_mismatches"])


def fresh_home(name: str = "demo") -> Path:
    """RISKFLOW_HOME/demo, empty; a folder that the demo did not make is left alone."""
    from ops import process
    from riskflow.settings import home_folder, settings

    home = home_folder() / name
    if home.exists() and not (home / MARK).exists():
        raise NotReady(f"{home} was not made by a demo. Move it away, or set RISKFLOW_HOME")
    running = [record.name for record in process.records(home).values() if record.alive()]
    if running:
        raise NotReady(f"one is running in {home} ({', '.join(running)}). Stop it with Ctrl-C")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / MARK).touch()
    os.environ["RISKFLOW_HOME"] = str(home)
    if {"RISKFLOW_KAFKA", "RISKFLOW_REDIS_URL"} & set(os.environ):
        os.environ["RISKFLOW_TOPIC_PREFIX"] = time.strftime(f"{name}-%H%M%S.")  # nothing of others is touched
    settings.cache_clear()
    return home


def summary(stage: Stage) -> dict[str, Any]:
    """What was counted; `lost` are payments without a score, `differing` scores of one event that are not equal."""
    sent, seen = stage.sender.events, stage.observer
    return {
        "events": len(sent),
        "scores": len(seen.scored),
        "rejected": seen.rejected,
        "duplicates": seen.duplicates,
        "differing": seen.differing,
        "lost": len(sent - seen.scored.keys()),
        "p50_ms": percentile(seen.latencies_ms, 50),
        "p99_ms": percentile(seen.latencies_ms, 99),
        "bundles": len(seen.first_ms),
        "swap_s": stage.swap_s,
        "parity_mismatches": stage.parity_mismatches,
        "seconds": round(stage.passed_s, 1),
    }


def where_to_look(stage: Stage) -> dict[str, str]:
    conf, at = stage.conf, stage.addresses
    password = conf.airflow_password.get_secret_value()
    airflow = {"Airflow": f"{at['airflow']}  user {conf.airflow_user}, password {password}"} if "airflow" in at else {}
    return {
        **airflow,
        "web API": f"{at['serving']}/docs",
        "one score": f"{at['serving']}/v1/{stage.plan.name}/scores/{next(iter(stage.observer.scored), '')}",
        "metrics": at["metrics"],
        "files": f"{stage.home} (lake, runs, logs)",
        **({} if stage.options.keep else {"": "All of it has ended. Keep it running: riskflow demo --keep"}),
    }


def _told(found: dict[str, Any], stage: Stage) -> dict[str, str]:
    actions = ", ".join(f"{n:,} {action}" for action, n in stage.observer.actions.most_common())
    return {
        "scored live": f"{found['scores']:,} of {found['events']:,} payments: {actions}",
        "lost, twice, rejected": f"{found['lost']}, {found['duplicates']}, {found['rejected']}",
        "latency": f"p50 {found['p50_ms']:.0f} ms, p99 {found['p99_ms']:.0f} ms, event's to score's arrival",
        "swap": f"{found['swap_s']} s from publishing to the first score by the new model",
        "parity": f"{found['parity_mismatches']} mismatches",
        "time": f"{found['seconds']:.0f} s",
    }


def _keep(stage: Stage) -> None:
    """Payments go on until Ctrl-C."""
    from cli.demo.sender import Sender

    stage.sender = Sender(stage.conf.kafka, stage.names, stage.sender.rest())
    stage.ending.callback(stage.sender.end)
    stage.sender.start()
    stage.screen.say("It goes on. Ctrl-C ends it")
    while stage.sender.is_alive():
        stage.screen.tick()
        time.sleep(0.2)
    stage.screen.say("The town has no more payments; everything else goes on until Ctrl-C")
    signal.pause()
