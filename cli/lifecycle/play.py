"""Plays a life step by step; what a step asserts and does not find ends it with exit code 1."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from cli.demo import prepare
from cli.demo.play import fresh_home, summary
from cli.demo.screen import Screen
from cli.demo.stage import Options, Stage
from cli.lifecycle import birth, life
from cli.lifecycle.stage import CUSTOMERS, HISTORY_DAYS, RATE, USECASE, Life, NotAsItShould

STEPS: list[tuple[str, Callable[[Any], str]]] = [
    ("Kafka, Redis and Airflow start while a town is invented", birth.begin),
    ("Keys that sign bundles", prepare.keys),
    ("The past goes through the kernel", prepare.rebuild),
    ("A worker starts", prepare.start_worker),
    ("A first guess learns", birth.first_guess),
    ("The worker is ready", prepare.wait_ready),
    ("Payments stream", birth.stream),
    ("Airflow is there", birth.airflow),
    ("New labels: it learns again", life.learn),
    ("The challenger shadows", life.shadow),
    ("The race on matured labels", life.race),
    ("Approved, canary, champion", life.approve),
    ("The past, in batch", life.past),
    ("The world changes", life.drift),
    ("It learns the changed world", life.learn_again),
    ("A bad model is refused", life.refuse),
    ("Rolled back", life.roll_back),
    ("The stream runs dry", life.drain),
]


def play(quick: bool, seed: int, as_json: bool) -> bool:
    """True when every step found what it has to, and no payment was lost or scored twice with other bytes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = Options(usecase=USECASE, days=HISTORY_DAYS, customers=CUSTOMERS, rate=RATE, seed=seed)
    with ExitStack() as ending:
        stage = Life(options, fresh_home("lifecycle"), Screen(), ending, quick=quick)
        wrong = _played(stage)
        found = {**_counted(stage), **stage.found, "passed": not wrong, "wrong": wrong}
    if as_json:
        print(json.dumps(found))
    return not (wrong or found.get("lost") or found.get("differing"))


def _played(stage: Life) -> str:
    """What went wrong; empty for nothing."""
    for title, step in STEPS:
        stage.screen.begin(title)
        try:
            stage.screen.say(f"{title}: {step(stage)}")
        except NotAsItShould as error:
            stage.screen.say(f"{title}: NOT AS IT SHOULD BE: {error}")
            return f"{title}: {error}"
    return ""


def _counted(stage: Stage) -> dict[str, Any]:
    return summary(stage) if hasattr(stage, "sender") else {}
