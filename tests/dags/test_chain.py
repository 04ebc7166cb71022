"""Airflow's real processes: they are healthy, and assets start one DAG after another."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sqlite3
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
from kafka import KafkaConsumer
from typer.testing import CliRunner

from batch import produce
from batch.airflow_client import ENDED, Airflow
from batch.pools import make_pools
from batch.produce import Outgoing
from batch.task_runs import task_runs
from cli import runs
from ops import local
from ops.local import Services
from riskflow.settings import load
from tests import support

pytestmark = [pytest.mark.airflow, pytest.mark.services]

DAY = 86_400_000


def test_airflow_is_healthy_and_lets_admin_in(airflow: Services) -> None:
    body = json.dumps({"username": "admin", "password": "admin"}).encode()
    request = urllib.request.Request(f"{airflow.airflow_url}/auth/token", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["access_token"]
    (state,) = [s for s in local.status(airflow.home) if s.name == "airflow"]
    assert state.running


def test_new_labels_start_a_retraining_and_its_refusal_is_told(airflow: Services) -> None:
    """archive -> lake -> labels -> labels -> retrain, which finds no scored rows and says so everywhere."""
    conf, client = load(), Airflow.of(load())
    send_labelled_events(conf.kafka)
    client.set_pool("training", 4)
    assert make_pools(load()) == {"training": 1}  # what is there is changed
    for kind in ("labels", "retrain"):
        client.switch_on(f"card_fraud_{kind}")

    first = client.trigger("card_fraud_archive", {})
    ended = wait_for_retraining(client)

    assert ended["run_type"] == "asset_triggered"
    assert ended["state"] == "failed"
    assert client.run("card_fraud_archive", first)["state"] == "success"
    states = {t.task_id: t.state for t in client.tasks("card_fraud_retrain", ended["dag_run_id"])}
    assert (states["labels"], states["check"], states["publish"]) == ("success", "failed", "upstream_failed")
    (told,) = alerts(conf.kafka)
    assert (told["kind"], told["about"]["task"], told["about"]["try"]) == ("refused", "check", 1)
    assert "holds no rows" in told["text"]
    outcomes = {(t.dag.removeprefix("card_fraud_"), t.task): t.outcome for t in task_runs(conf.home, "card_fraud")}
    assert outcomes == {
        ("archive", "archive"): "success", ("labels", "labels"): "success", ("labels", "ready"): "success",
        ("retrain", "turn"): "success", ("retrain", "archive"): "success", ("retrain", "labels"): "success",
        ("retrain", "check"): "refused",
    }  # fmt: skip
    assert asset_events(conf.home / "airflow" / "airflow.db") == ["card_fraud/labels", "card_fraud/lake"]

    again = client.trigger("card_fraud_archive", {})  # nothing new: nothing is started
    support.wait(lambda: client.run("card_fraud_archive", again)["state"] in ENDED, 60)
    assert [t.state for t in client.tasks("card_fraud_archive", again)] == ["skipped"]
    assert len(client.runs("card_fraud_labels")) == 1

    check_is_done_again_alone(client, ended["dag_run_id"])


def check_is_done_again_alone(client: Airflow, run: str) -> None:
    """What failed, by the command that `riskflow runs failed` names; what came before it is not done again."""
    app = typer.Typer()
    runs.register(app)
    listed = CliRunner().invoke(app, ["runs", "failed", "card_fraud"])
    (command,) = re.findall(r"again: riskflow (.*)", listed.output)
    done = CliRunner().invoke(app, [*shlex.split(command), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == ["check", "foretell", "judge", "publish", "replay", "train"]

    def tries() -> dict[str, int]:
        records = [t for t in task_runs(load().home, "card_fraud") if t.dag_run == run and t.outcome != "running"]
        return {t.task: t.attempt for t in records}

    support.wait(lambda: tries().get("check") == 2, 120)
    assert tries() == {"turn": 1, "archive": 1, "labels": 1, "check": 2}
    unknown = CliRunner().invoke(app, ["runs", "again", "card_fraud_retrain", run, "chek"])
    assert unknown.exit_code != 0
    assert "has no task 'chek'" in str(unknown.exception) + unknown.output


def send_labelled_events(kafka: str) -> None:
    """An old event with its label, and a new one: the old one is mature."""
    now = int(time.time() * 1000)
    who = {"customer_id": "c1", "terminal_id": "t1"}
    events = [
        {"event_id": f"e{i}", "occurred_at": at, "amount": 9.5, **who} for i, at in enumerate((now - 5 * DAY, now))
    ]
    label = {"label_id": "l0", "event_id": "e0", "is_fraud": True, "labelled_at": now - 3 * DAY, **who}
    feeds = f"{load().topic_prefix}card_fraud"
    messages = [(f"{feeds}.events", event) for event in events] + [(f"{feeds}.labels", label)]
    produce.send([Outgoing(topic, None, json.dumps(m).encode(), None) for topic, m in messages], kafka)


def wait_for_retraining(client: Airflow, timeout_s: float = 120) -> dict[str, Any]:
    """The run that an asset started, once it has ended."""

    def ended() -> list[dict[str, Any]]:
        return [run for run in client.runs("card_fraud_retrain") if run["state"] in ENDED]

    support.wait(ended, timeout_s)
    (run,) = ended()
    return run


def alerts(kafka: str) -> list[dict[str, Any]]:
    topic = f"{load().topic_prefix}card_fraud.alerts"
    with contextlib.closing(
        KafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest", consumer_timeout_ms=3000)
    ) as consumer:
        return [json.loads(record.value) for record in consumer]


def asset_events(database: Path) -> list[str]:
    query = "select a.name from asset_event e join asset a on a.id = e.asset_id order by a.name"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [name for (name,) in connection.execute(query)]


def test_a_run_that_passes_its_deadline_is_told_while_it_runs(airflow: Services) -> None:
    """Its first task is the team's own, which takes longer than pipeline.yaml allows the whole run."""
    client, kafka = Airflow.of(load()), load().kafka
    client.switch_on("card_fraud_review")
    run = client.trigger("card_fraud_review", {})
    support.wait(lambda: any(alert["kind"] == "late" for alert in alerts(kafka)), 90)
    (told,) = (alert for alert in alerts(kafka) if alert["kind"] == "late")
    assert told["about"] == {"dag": "card_fraud_review", "run": run, "within": "2s"}
