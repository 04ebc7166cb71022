"""The sections `race:` and `ramp:` of pipeline.yaml: when a challenger has won, and how it takes over.

race: {horizon: 14d, alpha: 0.05, margin: 0.0, metric: average_precision, fewest_frauds: 50, replicates: 2000,
       meanwhile: wait, patience: 90d}
ramp: {shares: [0.01, 0.1, 1.0], hold: 1h, fewest_events: 500, alert_ratio: 1.5, decline_ratio: 1.5, ...}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from riskflow.durations import duration_ms
from riskflow.errors import DeclarationError

Whole = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
AtLeastOne = Annotated[float, Meta(ge=1)]
Part = Annotated[float, Meta(gt=0, le=1)]
WAIT, REPLACE, JOIN = "wait", "replace", "join"


class RaceFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """When a challenger beats the champion. Judged once, when the horizon has passed and its events are mature."""

    horizon: str = "14d"  # of event time, from the first event on that all who race have scored
    alpha: Annotated[float, Meta(gt=0, lt=0.5)] = 0.05  # chance of promoting one that is no better, over all who race
    margin: Annotated[float, Meta(ge=0)] = 0.0  # by how much it must be better, in the metric's unit
    metric: Literal["average_precision", "cost"] = "average_precision"
    fewest_frauds: Whole = 50  # fewer say nothing
    replicates: Annotated[int, Meta(ge=200, le=100_000)] = 2_000
    meanwhile: Literal["wait", "replace", "join"] = "wait"  # what a retraining does while a race is not over
    patience: str = "90d"  # of real time; a race that is not judged by then holds up no retraining


class RampFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a winner takes over: shares of the first entity's ids, and what each step must show before the next."""

    shares: list[Part] = msgspec.field(default_factory=lambda: [0.01, 0.1, 1.0])
    hold: str = "1h"  # of event time, at each share
    fewest_events: Whole = 500  # decided by the canary, before a step is believed
    patience: str = "1d"  # of real time; a step that saw too little by then ends the ramp
    poll: str = "1m"  # of real time, between two looks of a guard
    alert_ratio: AtLeastOne = 1.5  # canary's alerts over the champion's on the same events, either way round
    decline_ratio: AtLeastOne = 1.5  # the same of declines
    floor: Annotated[float, Meta(ge=0, le=1)] = 0.005  # of all events; a smaller difference stops nobody
    alpha: Annotated[float, Meta(gt=0, lt=0.5)] = 0.001  # chance that a ramp stops a canary that is no different


def check_promotion(race: RaceFile, ramp: RampFile, at: Callable[[str], str]) -> None:
    """Raises DeclarationError for spans that are none, and for shares that do not rise."""
    spans = {f"ramp.{name}": getattr(ramp, name) for name in ("hold", "patience", "poll")}
    spans |= {"race.horizon": race.horizon, "race.patience": race.patience}
    for name, text in spans.items():
        try:
            duration_ms(text)
        except DeclarationError as error:
            raise DeclarationError(at(f"$.{name}"), f"{text!r} {error.found}", error.fix) from None
    if not ramp.shares or any(b <= a for a, b in zip(ramp.shares, ramp.shares[1:], strict=False)):
        raise DeclarationError(at("$.ramp.shares"), f"{ramp.shares} do not rise", "For example [0.01, 0.1, 1.0]")
