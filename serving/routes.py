"""The routes. Those that ask SQLite or Redis are plain functions, which the framework runs in threads."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.convertors import Convertor, register_url_convertor

from riskflow.connect import ERRORS
from riskflow.errors import RiskflowError
from serving import readiness, store
from serving.problems import ProblemError
from serving.schemas import About, Health, Models, Readiness, Score
from serving.services import Served, Services

MAX_ID_CHARS, MAX_ALIAS_CHARS = 128, 128
CARD_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # whoever writes to Redis gets no script into a browser
DAY_S = 86_400


class AnyText(Convertor[str]):
    """Everything to the end of the path, slashes and line breaks too."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anytext", AnyText())
router = APIRouter()


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def served_of(
    services: Annotated[Services, Depends(services_of)],
    usecase: Annotated[str, Path(description="use case", examples=["card_fraud"])],
) -> Served:
    if usecase not in services.served:
        there = ", ".join(services.served) or "none"
        raise ProblemError(404, "unknown-use-case", "Unknown use case", f"No use case {usecase!r}. There are: {there}.")
    return services.served[usecase]


AnyServices = Annotated[Services, Depends(services_of)]
OneServed = Annotated[Served, Depends(served_of)]


@router.get(
    "/v1/{usecase}/scores/{event_id:anytext}",
    operation_id="get_score", tags=["scores"], summary="The decision on one event",
    responses={404: {"description": "No such score, or no such use case"}},
)  # fmt: skip
def get_score(
    services: AnyServices,
    served: OneServed,
    event_id: Annotated[str, Path(max_length=MAX_ID_CHARS, examples=["tx-000042"])],
) -> Score:
    """The effective score of an event, from the last days (7 unless the server was told otherwise)."""
    found = served.store.find(event_id)
    if found is None:
        raise ProblemError(404, "no-score", "No score", _why_none(event_id, services, served))
    return Score.of(found)


@router.get(
    "/v1/{usecase}/models",
    operation_id="list_models", tags=["models"], summary="Versions, aliases and metrics",
    responses={404: {"description": "No such use case"}, 503: {"description": "The registry cannot be read"}},
)  # fmt: skip
def list_models(served: OneServed) -> Models:
    """Every published bundle, newest first. Metrics are those it was judged by."""
    try:
        return served.models.all()
    except (*ERRORS, RiskflowError) as error:
        raise ProblemError(503, "no-registry", "Registry not readable", f"{error}. See /readyz.") from None


@router.get(
    "/v1/{usecase}/models/{version}/card",
    operation_id="get_card", tags=["models"], summary="The model card, as a page", response_class=HTMLResponse,
    responses={404: {"description": "No such card or use case"}, 503: {"description": "The registry cannot be read"}},
)  # fmt: skip
def get_card(
    served: OneServed, version: Annotated[str, Path(max_length=MAX_ALIAS_CHARS, examples=["7", "champion"])]
) -> HTMLResponse:
    """What a bundle is for, what it learned from, how good it is: one page without script, made when it was judged."""
    try:
        html = served.models.card(version)
    except (*ERRORS, RiskflowError) as error:
        raise ProblemError(503, "no-registry", "Registry not readable", f"{error}. See /readyz.") from None
    if html is None:
        detail = f"No model card of {version!r}. `riskflow report {version} --store` makes one of a published version."
        raise ProblemError(404, "no-card", "No model card", detail)
    return HTMLResponse(html, headers={"Content-Security-Policy": CARD_POLICY})


@router.get("/healthz", operation_id="get_health", tags=["operation"], summary="Alive")
async def get_health() -> Health:
    """This process answers. It says nothing of Kafka and Redis: see /readyz."""
    return Health()


@router.get(
    "/readyz",
    operation_id="get_readiness", tags=["operation"], summary="Ready, or why not",
    responses={503: {"description": "Not ready; `checks` says why"}},
)  # fmt: skip
def get_readiness(services: AnyServices) -> Readiness:
    """Kafka and Redis answer, the scores have been read up to the last seconds, and there is a champion."""
    found = readiness.checks(services.served, services.redis)
    failed = [c for c in found if not c.ok]
    if failed:
        detail = "; ".join(f"{c.name}: {c.detail}" for c in failed)
        raise ProblemError(503, "not-ready", "Not ready", detail, checks=[c.model_dump() for c in found])
    return Readiness(checks=found)


@router.get(
    "/metrics",
    operation_id="get_metrics", tags=["operation"], summary="Metrics for Prometheus", response_class=Response,
    responses={200: {"content": {"text/plain": {"example": 'risk_serving_behind_seconds{use_case="card_fraud"} 0.4'}}}},
)  # fmt: skip
def get_metrics(request: Request) -> Response:
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/version", operation_id="get_version", tags=["operation"], summary="What runs here")
def get_version(request: Request, services: AnyServices) -> About:
    models = {name: _champion(served) for name, served in services.served.items()}
    return About(riskflow=version("riskflow"), git=request.app.state.git, score_format=store.FORMAT, models=models)


def _champion(served: Served) -> int | None:
    try:
        return served.models.champion()
    except (*ERRORS, RiskflowError):
        return None


def _why_none(event_id: str, services: Any, served: Served) -> str:
    behind_s = served.progress.status().behind_s
    how_far = "the reader has not caught up yet" if behind_s is None else f"read up to {behind_s:.1f} s ago"
    days = services.retention_s / DAY_S
    return f"No score of event {event_id!r}. Scores are kept for {days:g} days; {how_far}."
