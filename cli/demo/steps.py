"""The demo as a table of contents: what a person reads, and the function that does it and says what it found."""

from __future__ import annotations

from collections.abc import Callable

from cli.demo import flow, prepare, prove
from cli.demo.stage import Stage

STEPS: list[tuple[str, Callable[[Stage], str]]] = [
    ("Kafka and Redis start while a town is invented", prepare.begin),
    ("Keys that sign bundles", prepare.keys),
    ("The past goes through the kernel", prepare.rebuild),
    ("A worker and the web API start", prepare.start_worker_and_api),
    ("A first model learns", prepare.first_bundle),
    ("The worker is ready", prepare.wait_ready),
    ("Payments stream", flow.stream),
    ("Airflow starts", flow.start_airflow),
    ("It learns again", flow.retrain),
    ("The stream swaps models", flow.swap),
    ("Payments go on", flow.stream_on),
    ("The stream runs dry", flow.drain),
    ("Everything is archived", prove.archive),
    ("Parity", prove.compare),
]
