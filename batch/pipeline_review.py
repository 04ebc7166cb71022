"""The section `review` of pipeline.yaml: which scored events are put before people so that something is learned."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]


class Review(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Shares of the events that no decision sends to review."""

    uncertain: Share = 0.002  # those whose score is nearest to a threshold
    random: Share = 0.002  # any of the others
    seed: int = 0  # another one draws others
    learn: Literal["all", "sampled"] = "all"  # sampled: from labelled ones of the sample alone, by 1 / odds
