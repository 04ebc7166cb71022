"""Following a retraining: what is told while it runs, and what a person reads when nothing was published."""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batch.airflow_client import Airflow, Task
from batch.airflow_run import RetrainFailed, follow
from batch.task_runs import FAILED, TaskRun
from riskflow.errors import NotReady
from riskflow.settings import settings

GATES = [
    {"name": "rows", "passed": True, "found": 9000, "wanted": "at least 5000"},
    {"name": "average_precision", "passed": False, "found": 0.31, "wanted": "at least 0.5"},
]


class Recorded:
    """Answers as an API server does, one look after another."""

    url = "http://airflow"

    def __init__(self, looks: list[tuple[str, list[Task]]], results: dict[str, Any]) -> None:
        self._looks, self._results = looks, results

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return {"state": self._looks[0][0]}

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        return self._looks.pop(0)[1] if len(self._looks) > 1 else self._looks[0][1]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        return self._results.get(task_id)


def followed(looks: list[tuple[str, list[Task]]], **results: Any) -> tuple[Any, list[tuple[str, str, str]]]:
    told: list[tuple[str, str, str]] = []
    airflow: Any = Recorded(looks, results)
    return follow(airflow, "card_fraud", "r1", lambda *about: told.append(about)), told


def test_what_was_published_comes_back_with_its_figures() -> None:
    looks = [
        ("running", [Task("archive", "running")]),
        ("success", [Task("archive", "success", duration_s=2.0), Task("train", "success", 1, "forest", 2)]),
    ]
    verdict = {"candidate": "forest", "metrics": {"ap": 0.7}}

    found, told = followed(looks, publish={"version": 7, "alias": "champion"}, judge=verdict)

    assert found == {"version": 7, "alias": "champion", "run": "r1", "candidate": "forest", "metrics": {"ap": 0.7}}
    assert told[0] == ("archive", "running", "")
    assert told[-1] == ("train[1]", "success", "forest try 2")


def test_a_refusal_names_the_failed_gate_and_no_other() -> None:
    verdict = {"usecase": "card_fraud", "candidate": "forest", "passed": False, "gates": GATES}

    with pytest.raises(RetrainFailed, match=r"average_precision: found 0.31, wanted at least 0.5") as refusal:
        followed([("failed", [Task("publish", "failed")])], judge=verdict)

    assert "rows" not in str(refusal.value)


def test_a_retraining_that_waits_for_a_race_is_told_with_the_ways_to_have_it_now() -> None:
    looks = [("success", [Task("turn", "skipped"), Task("archive", "skipped"), Task("publish", "skipped")])]
    with pytest.raises(RetrainFailed, match=r"turn was skipped. A race is not over: --alias challenger"):
        followed(looks)


def test_a_failed_task_is_named_with_the_way_to_its_log() -> None:
    with pytest.raises(RetrainFailed, match=r"replay failed. Its log: http://airflow/dags/card_fraud_retrain/runs/r1"):
        followed([("failed", [Task("check", "success"), Task("replay", "failed")])])


def test_what_a_failed_task_said_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISKFLOW_HOME", str(tmp_path))
    settings.cache_clear()
    about = {"usecase": "card_fraud", "run": "r1", "dag": "card_fraud_retrain", "outcome": FAILED}
    TaskRun(**about, task="check", dag_run="r1", error="the lake holds no rows. Archive first.").write(tmp_path)
    TaskRun(**{**about, "run": "r0"}, task="check", dag_run="r0", error="another run's").write(tmp_path)
    try:
        with pytest.raises(RetrainFailed, match=r"check failed: the lake holds no rows. Archive first. Its log: "):
            followed([("failed", [Task("check", "failed")])])
    finally:
        settings.cache_clear()


def test_an_airflow_that_is_not_there_is_told_with_both_ways_out() -> None:
    with pytest.raises(NotReady, match=r"riskflow up.*--local"):
        Airflow("http://127.0.0.1:9", "admin", "admin").wait_for("card_fraud_retrain", 1)


@pytest.mark.parametrize(("paused", "asked"), [(True, ["GET"]), (False, ["GET", "POST"])])
def test_a_task_of_a_dag_that_is_switched_off_is_not_said_to_run_again(
    monkeypatch: pytest.MonkeyPatch, paused: bool, asked: list[str]
) -> None:
    client, calls = Airflow("http://airflow", "ann", "x"), list[str]()

    def answer(method: str, path: str, body: Any = None) -> dict[str, Any]:
        calls.append(method)
        return {"is_paused": paused, "task_instances": []}

    monkeypatch.setattr(client, "_call", answer)
    switched_off = pytest.raises(NotReady, match="riskflow airflow dags unpause card_fraud_retrain")
    with switched_off if paused else contextlib.nullcontext():
        assert client.again("card_fraud_retrain", "r1", "check") == []
    assert calls == asked


def test_a_server_that_is_busy_is_asked_again_for_what_only_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes a connection and says nothing at first, as Airflow's does before its first task."""
    from batch import airflow_client

    asked: list[str] = []

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if len(asked) == 1:
                time.sleep(0.6)
            with contextlib.suppress(OSError):  # nobody waits for the first answer any more
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"state": "running"}')

        def do_POST(self) -> None:
            asked.append(self.path)
            time.sleep(0.6)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(airflow_client, "ANSWER_S", 0.2)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        client = Airflow(f"http://127.0.0.1:{server.server_address[1]}", "ann", "x")
        client._token = "known"
        assert client.run("card_fraud_retrain", "r1") == {"state": "running"}
        assert len(asked) == 2
        with pytest.raises(NotReady, match="does not answer"):
            client._call("POST", "/pools", {})
        assert len(asked) == 3  # what changes something is said once
    finally:
        server.shutdown()
        server.server_close()
