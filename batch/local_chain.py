"""The steps of batch/retrain.py one after another in this process: what the DAG does, without Airflow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from batch import retrain
from batch.labels import complete_labels
from batch.run import Run

Tell = Callable[[str, str, str], None]  # step, state, detail
Step = tuple[str, Callable[[], Any]]


def retrain_here(run: Run, tell: Tell, *, who: str, why: str, alias: str = "champion") -> dict[str, Any]:
    """All steps; returns what was published, by which candidate. Raises CheckFailed or GatesFailed with the reason."""
    steps: list[Step] = [("archive", lambda: retrain.archive(run)), ("labels", lambda: _labels(run))]
    for name, step in steps:
        _do(name, step, tell)
    return train_here(run, tell, who=who, why=why, alias=alias)


def train_here(run: Run, tell: Tell, *, who: str, why: str, alias: str = "champion") -> dict[str, Any]:
    """The steps after the archive: enough where the lake holds the history already."""
    _do("check", lambda: retrain.check(run), tell)
    _do("replay", lambda: retrain.replay_frame(run), tell)
    _do("train", lambda: {"race": retrain.train_all(run)}, tell)
    verdict = _do("judge", lambda: retrain.judge_run(run), tell)
    published = _do("publish", lambda: retrain.publish_run(run, who, why, alias), tell)
    return {**published, "run": run.name, "candidate": verdict["candidate"], "metrics": verdict["metrics"]}


def _labels(run: Run) -> dict[str, Any]:
    return complete_labels(run.plan, run.conf, fresh=False).summary()


def _do(name: str, step: Callable[[], Any], tell: Tell) -> Any:
    """One step, told when it begins and when it ends."""
    started = time.monotonic()
    tell(name, "running", "")
    try:
        done = step()
    except BaseException:
        tell(name, "failed", "")
        raise
    tell(name, "success", f"{time.monotonic() - started:.1f} s")
    return done
