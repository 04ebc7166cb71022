"""The section `search:` of pipeline.yaml: whether better parameters are looked for, and how long.

search:
  trials: 30            most of them for one layer of one candidate; 0: no limit by number
  seconds: 600          most for a whole training; 0: no limit by time. Both 0: nothing is searched
  seed: 0               the same seed and the same number of trials find the same
  least_gain: 0.01      of average precision, for parameters to be taken instead of the defaults
  gap: 7d               rows must be so much older than those that are asked about; default: older is enough
  warm_start: champion  an alias or a version whose found parameters are the first to be tried
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from riskflow.durations import duration_ms

if TYPE_CHECKING:
    from batch.pipeline import Pipeline


class SearchFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a team writes under `search:`; without a budget nothing is searched."""

    trials: Annotated[int, Meta(ge=0, le=10_000)] = 0
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    least_gain: Annotated[float, Meta(ge=0, le=1)] = 0.01
    gap: str | None = None
    warm_start: int | str | None = None

    @property
    def on(self) -> bool:
        return bool(self.trials or self.seconds)

    @property
    def gap_ms(self) -> int:
        return duration_ms(self.gap) if self.gap else 0


def searching(pipeline: Pipeline, trials: int | None, seconds: float | None) -> Pipeline:
    """The same with another budget; what somebody asks for once. None leaves what the file says."""
    asked = {"trials": trials, "seconds": seconds}
    search = msgspec.structs.replace(pipeline.file.search, **{k: v for k, v in asked.items() if v is not None})
    return replace(pipeline, file=msgspec.structs.replace(pipeline.file, search=search))
