"""What a worker has loaded when it is ready: start-up is part of every recovery, so each package has a reason here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from riskflow.settings import PROJECT

pytestmark = pytest.mark.services
# As `faust -A stream.app worker` does it, up to the event loop.
START = """
import json, sys
import faust.cli.worker
import stream.app
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
TRAINS_OR_SERVES = {
    "airflow", "fastapi", "matplotlib", "onnx", "pandas", "polars", "pyarrow", "skl2onnx", "sklearn", "sqlalchemy",
    "starlette", "typer", "uvicorn",
}  # fmt: skip
NEEDED = {
    "Faust": {
        "aiohappyeyeballs", "aiohttp", "aiokafka", "aiosignal", "async_timeout", "attr", "charset_normalizer", "click",
        "colorlog", "croniter", "dateutil", "faust", "frozenlist", "idna", "intervaltree", "mode", "multidict",
        "mypy_extensions", "packaging", "propcache", "setproctitle", "sortedcontainers", "terminaltables",
        "typing_extensions", "venusian", "yarl",
    },
    "compressed events": {"cramjam", "zstandard"},
    "the kernel": {"llvmlite", "numba", "numpy", "scipy", "yaml"},
    "settings": {"annotated_types", "dotenv", "pydantic", "pydantic_core", "pydantic_settings", "typing_inspection"},
    "events, state, bundles, metrics, logs": {
        "cffi", "cryptography", "hiredis", "msgspec", "prometheus_client", "psutil", "pycparser", "redis", "structlog",
    },
    "loaded by those above where something else has installed it": {
        "greenlet", "lz4", "opentelemetry", "pygments", "rich", "snappy",
    },
}  # fmt: skip
OURS = {"__main__", "riskflow", "stream", "usecases"}


@pytest.fixture(scope="module")
def loaded(services: Any) -> set[str]:
    """Top-level packages in a fresh process; ours, Python's and nameless parts of compiled ones are left out."""
    environment = {**os.environ, "RISKFLOW_USECASE": "card_fraud"}
    out = subprocess.run(
        [sys.executable, "-c", START], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    found = set(json.loads(out.stdout.splitlines()[-1])) - set(sys.stdlib_module_names) - OURS
    return {name for name in found if not name.startswith(("_", "observe_", "cython_"))}


def test_a_worker_loads_nothing_that_trains_or_serves(loaded: set[str]) -> None:
    assert loaded & TRAINS_OR_SERVES == set()


def test_every_package_that_a_worker_loads_is_listed_with_its_reason(loaded: set[str]) -> None:
    print("a worker loads:", *sorted(loaded))
    assert loaded - set().union(*NEEDED.values()) == set()
