"""Redis URLs: one server, or the nodes of a cluster."""

from __future__ import annotations

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from riskflow.connect import _nodes, connect, connect_async, is_cluster, without_password
from riskflow.errors import NotReady, SettingsError
from riskflow.settings import load


def test_a_url_of_one_server_gives_a_plain_client() -> None:
    assert isinstance(connect("redis://127.0.0.1:1/0"), Redis)
    assert isinstance(connect_async("redis://127.0.0.1:1/0"), AsyncRedis)


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    assert _nodes("redis+cluster://a:1,b:2,c:3") == ("redis://a:1", [("b", 2), ("c", 3)])
    assert _nodes("rediss+cluster://me:secret@a:1,b:2") == ("rediss://me:secret@a:1", [("b", 2)])


def test_a_client_of_a_cluster_is_known_as_one() -> None:
    assert is_cluster(connect_async("redis+cluster://127.0.0.1:1"))
    assert not is_cluster(connect_async("redis://127.0.0.1:1/0"))


def test_a_cluster_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(NotReady, match=r"cluster at 127.0.0.1:1,127.0.0.1:2 does not answer") as found:
        connect("redis+cluster://me:secret@127.0.0.1:1,127.0.0.1:2", socket_connect_timeout=1)
    assert "secret" not in str(found.value)
    assert without_password("redis://me:secret@host:1/0") == "host:1/0"


def test_settings_take_the_url_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISKFLOW_REDIS_URL", "redis+cluster://127.0.0.1:1,127.0.0.1:2")
    assert load().redis_url.startswith("redis+cluster")
    monkeypatch.setenv("RISKFLOW_REDIS_URL", "http://127.0.0.1")
    with pytest.raises(SettingsError, match="redis\\+cluster://"):
        load()
