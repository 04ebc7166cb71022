"""Redis clients from a URL: one server, or a cluster over whose shards the partitions of all stages are spread.

    redis://host:port/0, rediss://..., unix://...      one server
    redis+cluster://[user:password@]host:port,...      a cluster, by some of its nodes; rediss+cluster:// with TLS

Both kinds of client have the same methods. Only one call at a time is promised on several shards: a pipeline there is
no transaction, and scripts do not go through one.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import RedisCluster as AsyncCluster
from redis.asyncio.cluster import ClusterNode as AsyncNode
from redis.client import Redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from riskflow.errors import NotReady

_CLUSTER = "+cluster://"
ERRORS = (RedisError, RedisClusterException)  # of a client of either kind; they have nothing in common


def connect(url: str, **options: Any) -> Any:
    """A client that waits for its answers; NotReady when no node of a cluster answers."""
    if _CLUSTER not in url:
        return Redis.from_url(url, **options)
    first, others = _nodes(url)
    try:
        return RedisCluster.from_url(first, startup_nodes=[_node(h, p) for h, p in others], **options)
    except RedisClusterException as error:
        raise NotReady(f"the Redis cluster at {without_password(url)} does not answer ({error}).") from None


def connect_async(url: str, **options: Any) -> Any:
    """A client for asyncio; it connects when it is first used."""
    if _CLUSTER not in url:
        return AsyncRedis.from_url(url, **options)
    first, others = _nodes(url)
    return AsyncCluster.from_url(first, startup_nodes=[AsyncNode(h, p) for h, p in others], **options)


def _node(host: str, port: int) -> ClusterNode:
    return ClusterNode(host, port)  # type: ignore[no-untyped-call]


def is_cluster(client: Any) -> bool:
    """Whether its keys may be on several servers."""
    return isinstance(client, AsyncCluster | RedisCluster)


def maxmemory_policies(client: Any) -> set[str]:
    """What each server does when its memory is full."""
    nodes = [{"target_nodes": n} for n in client.get_primaries()] if is_cluster(client) else [{}]
    return {client.config_get("maxmemory-policy", **node)["maxmemory-policy"] for node in nodes}


def without_password(url: str) -> str:
    """The addresses in a URL."""
    return url.partition("://")[2].rpartition("@")[2]


def _nodes(url: str) -> tuple[str, list[tuple[str, int]]]:
    """The URL of the first node, with user and password, and the other nodes."""
    scheme, _, rest = url.partition(_CLUSTER)
    user, at, addresses = rest.rpartition("@")
    first, *others = addresses.rstrip("/").split(",")
    parts = [node.rpartition(":") for node in others]
    return f"{scheme}://{user}{at}{first}", [(host, int(port)) for host, _, port in parts]
