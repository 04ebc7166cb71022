"""Airflow's own metrics of tasks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

# As each of Airflow's task processes begins and ends.
TASK = """
from datetime import timedelta
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils
stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
stats.timing("task.duration", timedelta(seconds=3), tags={"dag_id": "card_fraud_retrain", "task_id": "check"})
"""


def test_how_long_tasks_take_reaches_a_collector_as_the_docs_say(tmp_path: Path) -> None:
    """The lines of docs/airflow.md, with another port."""
    pytest.importorskip("airflow", reason="Airflow is a dependency group of its own")
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "OTEL"))}
        said = {
            "AIRFLOW__METRICS__OTEL_ON": "True", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", TASK], env={**clean, **said, "AIRFLOW_HOME": str(tmp_path)}, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        server.shutdown()
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(b"task.duration" in body and b"card_fraud_retrain" in body for body in received)
