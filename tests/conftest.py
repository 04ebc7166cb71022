"""Real services for the tests that need them: started once for a session, in a folder and on ports of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

from ops import local
from ops.local import SERVICES, Services
from riskflow.settings import settings

hypothesis.settings.register_profile("riskflow", deadline=None)  # a test never fails because a machine is busy
hypothesis.settings.load_profile("riskflow")

ADDRESSES = [service.variable for service in SERVICES.values()]


# Files of tests that fit models, or play many races, for seconds.
LEARNS = {
    "backtest", "card_curves", "checks", "dataset", "evaluate_command", "forecast_errors", "gates", "judge", "layers",
    "let_through", "lint", "race", "retrain", "review_sample", "score_batch", "search", "silence", "train", "transfer",
    "transient", "truth", "watching",
}  # fmt: skip


@pytest.fixture(scope="session")
def session_environment() -> Iterator[pytest.MonkeyPatch]:
    """Environment variables for the whole session; addresses from the outside do not reach the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ADDRESSES:
            patch.delenv(name, raising=False)
        yield patch
    settings.cache_clear()


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory, session_environment: pytest.MonkeyPatch) -> Iterator[Services]:
    """Kafka and Redis. The environment and settings() name them, for this process and for what it starts."""
    home = tmp_path_factory.mktemp("riskflow")
    with local.running(home, airflow=False, usual_ports=False) as found:
        _publish(session_environment, found)
        yield found


def _publish(environment: pytest.MonkeyPatch, found: Services) -> None:
    for name, value in found.environment().items():
        environment.setenv(name, value)
    settings.cache_clear()


# What starts Airflow: two at once are too much for two cores, so one process has all of it, from the start.
AIRFLOW = ("tests/e2e/", "tests/dags/")
# What imports Airflow, which takes 4 s: in one process, too.
IMPORTS_AIRFLOW = tuple(f"tests/unit/test_{name}.py" for name in ("airflow_metrics", "dags", "late", "own_tasks"))


class ByFile(LoadFileScheduling):
    """A file's tests in one process, those with Airflow in one together."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(AIRFLOW):
            return "airflow"
        return "imports airflow" if nodeid.startswith(IMPORTS_AIRFLOW) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what fits models or loads Airflow: the quick suite leaves it out. What takes longest begins."""
    for item in items:
        if item.path.stem.removeprefix("test_") in LEARNS:
            item.add_marker("learns")
        if item.nodeid.startswith(IMPORTS_AIRFLOW):
            item.add_marker("airflow")
    items.sort(key=lambda item: not item.nodeid.startswith(AIRFLOW))


def pytest_unconfigure() -> None:
    """Clients' threads may say something after pytest has closed its streams; that is no error of a test."""
    logging.raiseExceptions = False
