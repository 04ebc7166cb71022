"""What the API answers, with an example of each. Times in milliseconds end in `_ms`; the others are RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from serving.decision import ScoreMessage
from serving.store import Stored

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class Score(BaseModel):
    """The effective decision on one event."""

    model_config = _example({
        "event_id": "tx-000042", "score": 0.871204, "band": "high", "action": "review",
        "reasons": ["amount is 6.2 times the customer's usual"], "bundle": 7, "degraded": [],
        "occurred_at": "2026-11-02T10:15:00.250Z", "occurred_at_ms": 1793614500250,
        "positions": {"events": "3/120934/0", "customer_id": "5/8123/17", "terminal_id": "1/7990/203"},
        "decided_at_ms": 1793614500281, "epoch": 1793610000000, "worker": "host/0",
    })  # fmt: skip
    event_id: str
    score: float = Field(description="calibrated probability of fraud, 6 decimals")
    band: str
    action: str = Field(description="approve, review or decline")
    reasons: list[str] = Field(description="at most three, for events that were not approved")
    bundle: int = Field(description="version of the bundle that decided")
    degraded: list[str] = Field(description="inputs that could not be worked out")
    occurred_at: str = Field(description="event time, RFC 3339")
    occurred_at_ms: int = Field(description="event time, ms since 1970")
    positions: dict[str, str] = Field(description="where the event stands in each stage's log: partition/offset/row")
    decided_at_ms: int | None = Field(description="wall clock of the worker when it decided")
    epoch: int = Field(description="epoch of the worker; of two scores the one with the higher epoch counts")
    worker: str | None = Field(description="host and slot of the worker")

    @classmethod
    def of(cls, stored: Stored) -> Score:
        message = msgspec.json.decode(stored.value, type=ScoreMessage)
        return cls(
            **{**msgspec.structs.asdict(message), "occurred_at": rfc3339(message.occurred_at)},
            occurred_at_ms=message.occurred_at,
            decided_at_ms=stored.decided_at_ms,
            epoch=stored.epoch,
            worker=stored.worker,
        )


class Version(BaseModel):
    """One published bundle."""

    version: int
    aliases: list[str] = Field(description="aliases that point at it now")
    created_at: str = Field(description="when it was built, RFC 3339")
    published_at_ms: int
    published_by: str
    hash: str = Field(description="sha256 of its manifest")
    models: list[str] = Field(description="its layers, lowest first; none: policy alone")
    metrics: dict[str, Any] | None = Field(description="as judged before publishing; null when its bytes are gone")


class Alias(BaseModel):
    """Where an alias stands, and the signed move that put it there."""

    version: int
    number: int
    moved_at_ms: int
    who: str
    why: str
    share: float | None = Field(description="of events, for the canary")


class Models(BaseModel):
    """All versions of a use case, newest first, and its aliases."""

    model_config = _example({
        "usecase": "card_fraud",
        "aliases": {
            "champion": {
                "version": 7, "number": 9, "moved_at_ms": 1793610000000, "who": "airflow", "why": "weekly retraining",
                "share": None,
            },
        },
        "versions": [
            {
                "version": 7, "aliases": ["champion"], "created_at": "2026-11-02T09:00:00Z",
                "published_at_ms": 1793609990000, "published_by": "airflow", "hash": "9f2c…",
                "models": ["customer_risk", "terminal_risk", "risk"], "metrics": {"auc": 0.91, "ap": 0.75},
            },
        ],
    })  # fmt: skip
    usecase: str
    aliases: dict[str, Alias]
    versions: list[Version]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Check(BaseModel):
    """One thing that must hold, and what was found."""

    name: str
    ok: bool
    detail: str


class Readiness(BaseModel):
    model_config = _example({
        "status": "ready",
        "checks": [
            {"name": "kafka", "ok": True, "detail": "answers"},
            {"name": "redis", "ok": True, "detail": "answers"},
            {"name": "card_fraud.scores", "ok": True, "detail": "read up to 0.4 s ago"},
            {"name": "card_fraud.champion", "ok": True, "detail": "version 7"},
        ],
    })  # fmt: skip
    status: Literal["ready"] = "ready"
    checks: list[Check]


class About(BaseModel):
    model_config = _example({
        "riskflow": "0.1.0", "git": "3ff4e88", "api": "v1", "score_format": 1, "models": {"card_fraud": 7},
    })  # fmt: skip
    riskflow: str
    git: str | None = Field(description="commit of the checkout, where there is one")
    api: str = "v1"
    score_format: int = Field(description="format of stored scores")
    models: dict[str, int | None] = Field(description="champion of each use case; null: none, or Redis does not answer")


def rfc3339(at_ms: int) -> str:
    """A moment in UTC.

    >>> rfc3339(1793614500250)
    '2026-11-02T10:15:00.250Z'
    """
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
