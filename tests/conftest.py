"""Real services for the tests that need them: started once for a session, in a folder and on ports of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ops import local
from ops.local import SERVICES, Services
from riskflow.settings import settings

ADDRESSES = [service.variable for service in SERVICES.values()]


# Files of tests that fit models for seconds.
LEARNS = {
    "backtest", "checks", "dataset", "evaluate_command", "gates", "judge", "layers", "let_through", "lint", "race",
    "retrain", "review_sample", "score_batch", "search", "train", "transfer", "transient", "watching",
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what fits models, so that the quick suite can leave it out."""
    for item in items:
        if item.path.stem.removeprefix("test_") in LEARNS:
            item.add_marker("learns")


def pytest_unconfigure() -> None:
    """Clients' threads may say something after pytest has closed its streams; that is no error of a test."""
    logging.raiseExceptions = False
