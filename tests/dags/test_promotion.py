"""The DAG `promote` in Airflow's real processes: what a no does, and what follows a guard that has died."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from batch.airflow_client import ENDED, Airflow
from batch.run import Run
from batch.task_runs import RUNNING, task_runs
from batch.verdicts import verdict_path, write_verdict
from ops.local import Services
from riskflow.keys import load_private_key, make_keys
from riskflow.registry import Registry
from riskflow.settings import load
from tests import support
from tests.unit.bundle_cases import rules_only

pytestmark = [pytest.mark.airflow, pytest.mark.services]

DAG = "card_fraud_promote"
EVIDENCE = {"standings": [], "last_ms": 0}


@pytest.fixture(scope="module")
def run(airflow: Services) -> Run:
    """Version 1 is champion. No worker runs: a canary decides nothing."""
    made = Run.of(support.plan_of(), load(), "tried")
    make_keys(made.conf.keys_folder)
    publish(made, "champion")
    Airflow.of(load()).switch_on(DAG)
    return made


def publish(run: Run, alias: str) -> int:
    bundle = replace(rules_only(), manifest={**rules_only().manifest, "usecase": run.plan.name})
    key = load_private_key(run.conf.keys_folder)
    return run.registry().publish(bundle, key, who="ann", why="tried", alias=alias).version


def has_won(run: Run) -> int:
    """A challenger whose race was judged already."""
    version, aliases = publish(run, "challenger"), run.registry().aliases()
    path = verdict_path(run, aliases["champion"], [aliases["challenger"]])
    write_verdict(path, {"winner": version, "waits": "", "evidence": EVIDENCE})
    return version


def answered(option: str) -> str:
    """A run whose question has got this answer."""
    client = Airflow.of(load())
    run_id = client.trigger(DAG, {})
    while states(run_id).get("approval") != "success":  # an answer that comes too early is asked for again
        support.wait(lambda: states(run_id).get("approval") in ("awaiting_input", "success"), 120)
        if states(run_id)["approval"] == "awaiting_input":
            time.sleep(3)
            client.answer(DAG, run_id, "approval", option, why="too dear")
            support.wait(lambda: states(run_id)["approval"] != "awaiting_input", 60)
    return run_id


def states(run_id: str) -> dict[str, Any]:
    return {t.task_id: t.state for t in Airflow.of(load()).tasks(DAG, run_id)}


def ended(run_id: str) -> str:
    client = Airflow.of(load())
    support.wait(lambda: client.run(DAG, run_id)["state"] in ENDED, 120)
    return str(client.run(DAG, run_id)["state"])


def standing(registry: Registry) -> dict[str, int]:
    return {alias: move.version for alias, move in registry.aliases().items()}


def test_what_a_person_rejects_challenges_no_more(run: Run) -> None:
    version = has_won(run)
    run_id = answered("Reject")
    assert ended(run_id) == "success"
    assert states(run_id) == {
        "race": "success", "winner": "success", "approval": "success", "canary_100": "skipped", "guard_100": "skipped",
        "crown": "skipped", "rejected": "success", "take_back": "skipped",
    }  # fmt: skip
    assert standing(run.registry()) == {"champion": 1}
    last = run.registry().history("challenger")[-1]
    assert (last.previous, last.who, last.why) == (version, "airflow: admin", "rejected: too dear")


def test_a_canary_whose_guard_has_died_is_taken_back(run: Run) -> None:
    """The guard looks, gives its slot back, and is then declared dead from the outside."""
    version = has_won(run)
    run_id = answered("Approve")
    support.wait(lambda: states(run_id)["guard_100"] == "up_for_reschedule", 120)
    assert standing(run.registry()) == {"champion": 1, "challenger": version, "canary": version}
    (look,) = [t for t in task_runs(run.conf.home, "card_fraud") if t.task == "guard_100"]
    assert (look.outcome, look.summary["waits"]) == (RUNNING, "0 of 500 events were decided by the canary")

    place = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/guard_100"
    Airflow.of(load())._call("PATCH", place.replace("+", "%2B").replace(":", "%3A"), {"new_state": "failed"})
    assert ended(run_id) == "failed"
    found = states(run_id)
    assert (found["take_back"], found["crown"], found["rejected"]) == ("success", "upstream_failed", "skipped")
    assert standing(run.registry()) == {"champion": 1, "challenger": version}
    assert "Its ramp has ended without a crown" in run.registry().history("canary")[-1].why
