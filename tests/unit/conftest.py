"""No unit test reaches a platform that happens to run on this machine: its addresses lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from riskflow.settings import settings

NOWHERE = {
    "RISKFLOW_KAFKA": "127.0.0.1:9",
    "RISKFLOW_REDIS_URL": "redis://127.0.0.1:9/0",
    "RISKFLOW_AIRFLOW_URL": "http://127.0.0.1:9",
}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, address in NOWHERE.items():
        monkeypatch.setenv(name, address)
    settings.cache_clear()
    yield
    settings.cache_clear()
