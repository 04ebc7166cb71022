"""A score as it stands on the topic. The writer is the stream's last stage; the two meet at this JSON only."""

from __future__ import annotations

import msgspec


class ScoreMessage(msgspec.Struct):
    """The value of a record on `<use case>.scores`. Fields that come later are ignored."""

    event_id: str
    score: float
    band: str
    action: str
    bundle: int
    occurred_at: int
    reasons: list[str] = []
    degraded: list[str] = []
    positions: dict[str, str] = {}
