"""What the steps of the demo share: options, services, and what has been found so far."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cli.demo.observer import Observer
    from cli.demo.screen import Screen
    from cli.demo.sender import Sender
    from cli.demo.town import Town
    from ops.local import Services
    from ops.process import Record
    from riskflow.names import Names
    from riskflow.plan import Plan
    from riskflow.settings import Settings

READY_S = 120.0  # patience for what starts


@dataclass(frozen=True)
class Options:
    """How large and how long."""

    usecase: str = "card_fraud"
    days: int = 90
    customers: int = 2_000
    rate: float = 200.0
    seconds: int = 60
    seed: int = 7
    airflow: bool = True
    keep: bool = False


@dataclass
class Stage:
    """Filled by the steps from top to bottom; `ending` takes down what was put up."""

    options: Options
    home: Path
    screen: Screen
    ending: ExitStack
    began: float = field(default_factory=time.monotonic)

    services: Services = field(init=False)
    plan: Plan = field(init=False)
    conf: Settings = field(init=False)
    names: Names = field(init=False)
    town: Town = field(init=False)
    observer: Observer = field(init=False)
    sender: Sender = field(init=False)
    worker: Record = field(init=False)

    addresses: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)  # for the table at the end
    published: dict[str, Any] = field(default_factory=dict)  # the retraining's result
    streaming_since: float = 0.0
    swap_s: float | None = None
    parity_mismatches: int | None = None

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self.began


def figures(published: dict[str, object]) -> str:
    """A published bundle in a few words."""
    metrics = published.get("metrics") or {}
    shown = [f"{n} {metrics[n]:.3f}" for n in ("auc", "ap", "cp_at_k") if isinstance(metrics.get(n), float)]
    return f"version {published['version']}, {published.get('candidate')}: {', '.join(shown)}"
