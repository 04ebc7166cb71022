"""Ports of this machine: which is free, who answers."""

from __future__ import annotations

import random
import socket

from riskflow.errors import NotReady

HOST = "127.0.0.1"
# Below the range from which systems take ports for outgoing connections, so nothing grabs one between choice and use.
CHOICE = range(20000, 32000)


def free(port: int) -> bool:
    """Nobody listens there, and we may."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return not answers(HOST, port, 0.2)


def answers(host: str, port: int, timeout_s: float) -> bool:
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False


def choose(usual: int | None = None) -> int:
    """The usual port when it is free, else another free one."""
    candidates = ([usual] if usual else []) + random.sample(CHOICE, 50)
    for port in candidates:
        if free(port):
            return port
    raise NotReady(f"no free port on {HOST} in 50 tries; see what listens with: ss -ltn")
