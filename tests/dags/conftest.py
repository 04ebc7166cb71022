"""Airflow's real processes, started once for the tests of this folder: DAGs that are a chain, and a promotion."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from batch import topics
from ops import local
from ops.local import Services
from riskflow.settings import load, settings
from tests import support

PIPELINE = """
schedule: null
maturity: 2d
retries: 0
pool: {name: training, slots: 1}
alerts: {topic: true}
deadlines: {review: 2s}
tasks: [{name: nap, call: usecases.card_fraud.tasks.nap, dag: review, before: sample}]
promotion: approval
ramp: {shares: [1.0], poll: 2s}
dags: {archive: null, labels: lake, retrain: labels, promote: null, score_batch: false, drift: false, backtest: false,
       maintain: false}
"""
NAP = """
import time

def nap(run):
    time.sleep(15)
"""


@pytest.fixture(scope="package")
def airflow(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Airflow beside Kafka and Redis, in the same folder, with a pipeline.yaml and topics of its own."""
    usecases = tmp_path_factory.mktemp("usecases")
    shutil.copytree(load().usecases / "card_fraud", usecases / "card_fraud")
    (usecases / "card_fraud" / "pipeline.yaml").write_text(PIPELINE)
    (usecases / "card_fraud" / "tasks.py").write_text(NAP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RISKFLOW_USECASES", str(usecases))
        patch.setenv("RISKFLOW_TOPIC_PREFIX", "chain.")
        with local.running(services.home, airflow=True, usual_ports=False) as found:
            for name, value in found.environment().items():
                patch.setenv(name, value)
            settings.cache_clear()
            topics.make(support.plan_of(), load(), partitions=1)
            yield found
    settings.cache_clear()
