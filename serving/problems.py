"""Every error is a problem detail (RFC 9457, application/problem+json), whoever raised it."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

log = structlog.get_logger(__name__)
MEDIA_TYPE = "application/problem+json"
TITLES = {404: "Not found", 405: "Method not allowed", 422: "Not valid", 500: "Internal error", 503: "Not ready"}


class Problem(BaseModel):
    """What went wrong. `type` is stable and made for programs, `detail` is made for people."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(examples=["urn:riskflow:problem:no-score"])
    title: str = Field(examples=["No score"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["No score of event 'tx-000042' has been read."])
    instance: str = Field(description="the path that was asked for", examples=["/v1/card_fraud/scores/tx-000042"])


class ProblemError(Exception):
    """Raised by a route; becomes a problem detail with these words and extra members."""

    def __init__(self, status: int, kind: str, title: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status, self.kind, self.title, self.detail, self.extra = status, kind, title, detail, extra


def install(app: FastAPI) -> None:
    """Makes the app answer all errors this way, its own and the framework's."""
    handlers: list[tuple[Any, Any]] = [
        (ProblemError, _from_route), (HTTPException, _from_framework), (RequestValidationError, _from_validation),
        (Exception, _from_bug),
    ]  # fmt: skip
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)


async def _from_route(request: Request, error: ProblemError) -> JSONResponse:
    return _answer(request, error.status, error.kind, error.title, error.detail, **error.extra)


async def _from_framework(request: Request, error: HTTPException) -> JSONResponse:
    title = TITLES.get(error.status_code, str(error.detail))
    kind = title.lower().replace(" ", "-")
    detail = f"{request.method} {request.url.path}: {error.detail}. See /docs."
    return _answer(request, error.status_code, kind, title, detail, headers=error.headers)


async def _from_validation(request: Request, error: RequestValidationError) -> JSONResponse:
    errors = [{"where": ".".join(map(str, e["loc"])), "detail": e["msg"]} for e in error.errors()]
    detail = "; ".join(f"{e['where']}: {e['detail']}" for e in errors)
    return _answer(request, 422, "not-valid", TITLES[422], detail, errors=errors)


async def _from_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", path=request.url.path, exc_info=error)
    return _answer(request, 500, "internal-error", TITLES[500], f"{type(error).__name__}; the server's log has more.")


def _answer(
    request: Request, status: int, kind: str, title: str, detail: str, headers: Any = None, **extra: Any
) -> JSONResponse:
    body = {
        "type": f"urn:riskflow:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.scope.get("raw_path", b"").decode("ascii", "replace") or request.url.path,
        **extra,
    }
    return JSONResponse(body, status, headers, MEDIA_TYPE)
