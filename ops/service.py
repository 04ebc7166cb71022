"""What every local service says about itself, so that starting one is the same work for all."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One process of a service."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM


@dataclass(frozen=True)
class Service:
    """A program with an address. `prepare` writes its files, `problem` says why it does not answer (None: it does)."""

    name: str
    variable: str
    usual_port: int
    start_s: float
    prepare: Callable[[Path, int], None]
    parts: Callable[[Path, int], list[Part]]
    address: Callable[[int], str]
    problem: Callable[[str], str | None]
