"""Runs `riskflow demo` in a home of its own, as somebody would from a terminal, and reads what it reports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from ops import process
from riskflow.settings import PROJECT, settings

SMALL = ("--days", "30", "--customers", "800", "--rate", "60", "--seconds", "10", "--json")
PIPELINE = """
schedule: null
span: 14d
maturity: 9d
validation: 5d
checks: {rows: {least: 500}, frauds: {least: 2}}
gates: [{gate: not_worse, margin: 0.9}, {gate: onnx_parity}]
"""


def start_demo(home: Path, *words: str) -> subprocess.Popen[str]:
    """The command in the background. A small town has few frauds, so its gates are low."""
    usecases = home / "usecases"
    shutil.copytree(settings().usecases / "card_fraud", usecases / "card_fraud")
    (usecases / "card_fraud" / "pipeline.yaml").write_text(PIPELINE)
    return start(home, "demo", *SMALL, *words, RISKFLOW_USECASES=str(usecases))


def start(home: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """A `riskflow` command in the background, with a home of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RISKFLOW_", "AIRFLOW_"))}
    command, pipe = [sys.executable, "-m", "cli.main", *words], subprocess.PIPE
    variables = {**clean, "RISKFLOW_HOME": str(home), **environment}
    return subprocess.Popen(command, cwd=PROJECT, env=variables, stdout=pipe, stderr=pipe, text=True)


def run_demo(home: Path, *words: str, timeout_s: float) -> tuple[int, dict[str, Any], str]:
    """Exit code, the summary on the last line, and what was said."""
    return ended(start_demo(home, *words), timeout_s)


def ended(command: subprocess.Popen[str], timeout_s: float) -> tuple[int, dict[str, Any], str]:
    """The same of a command that was started."""
    with command as running:
        try:
            out, said = running.communicate(timeout=timeout_s)
        finally:
            running.send_signal(signal.SIGTERM)  # on a failure too nothing may stay behind
    lines = out.strip().splitlines()
    assert lines, said[-3000:]
    return running.returncode, json.loads(lines[-1]), said


def left_running(home: Path, folder: str = "demo") -> list[str]:
    """Processes of the demo's home that live, recorded or not."""
    recorded = [name for name, record in process.records(home / folder).items() if record.alive()]
    named = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if p.pid != os.getpid()]
    return recorded + [" ".join(words) for words in named if words and any(str(home) in word for word in words)]


def check_nothing_lost(found: dict[str, Any], said: str) -> None:
    """What must hold of every demo."""
    assert found["events"] > 500, said
    assert found["scores"] == found["events"]
    assert (found["lost"], found["duplicates"], found["rejected"]) == (0, 0, 0)
    assert found["parity_mismatches"] == 0
    assert found["bundles"] == 2
    assert found["swap_s"] >= 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]
