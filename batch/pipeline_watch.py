"""Section `watch` of pipeline.yaml: when what is live has moved too far from what it learned from.

watch:
  window: 7d            what is looked at, back from the newest scored event
  source: rows          archived rows, every one of them; `snapshots`: what workers have counted of a share
  psi: 0.2              an input or the score has drifted from this population stability index on
  missing: 0.1          ... or when its share of unknown values has changed by so much
  decay: 0.25           quality has decayed when so much of what the bundle promised is gone
  false_alarms: 0.001   chance that a look at nothing but noise says one of these
  fewest_events: 500    below it nothing is said
  retrain: false        ask for a retraining as well
  alert_gap: 23h        at least so long between two alerts, and at most so many within 24 hours
  alerts_per_day: 3
  retrain_gap: 47h      the same for retrainings
  retrains_per_day: 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from riskflow.durations import duration_ms
from riskflow.errors import DeclarationError

DURATIONS = ("window", "alert_gap", "retrain_gap")
Whole = Annotated[int, Meta(ge=1)]


class Watch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    window: str = "7d"
    source: Literal["rows", "snapshots"] = "rows"
    psi: Annotated[float, Meta(gt=0)] = 0.2
    missing: Annotated[float, Meta(gt=0, le=1)] = 0.1
    decay: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    false_alarms: Annotated[float, Meta(gt=0, le=0.1)] = 0.001
    fewest_events: Whole = 500
    retrain: bool = False
    alert_gap: str = "23h"  # a daily look comes some seconds sooner or later than a day after the last one
    alerts_per_day: Whole = 3
    retrain_gap: str = "47h"
    retrains_per_day: Whole = 1

    @property
    def window_ms(self) -> int:
        return duration_ms(self.window)

    @property
    def alert_gap_ms(self) -> int:
        return duration_ms(self.alert_gap)

    @property
    def retrain_gap_ms(self) -> int:
        return duration_ms(self.retrain_gap)

    def check(self, at: Callable[[str], str]) -> None:
        """Raises DeclarationError. at: the place in the file of a value's path."""
        for name in DURATIONS:
            try:
                duration_ms(getattr(self, name))
            except DeclarationError as error:
                found = f"{getattr(self, name)!r} {error.found}"
                raise DeclarationError(at(f"$.watch.{name}"), found, error.fix) from None
