"""The web application: `create_app(settings)` puts it together, and nothing is connected before it starts."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from riskflow.settings import PROJECT, Settings, settings
from serving import documentation, observed, problems
from serving.metrics import Metrics
from serving.routes import router
from serving.services import WEEK_S, Services

DESCRIPTION = """Look up decisions and the models that made them.

Every error is a problem detail (RFC 9457, `application/problem+json`). Event ids may be any text of up to 128
characters; percent-encode them in the path (`a/b` is `a%2Fb`, or stands as it is)."""


def create_app(
    conf: Settings | None = None,
    *,
    retention_s: float = WEEK_S,
    make_services: Callable[..., Services] = Services,
) -> FastAPI:
    """The application. Kafka, Redis and the files are opened when it starts and closed when it stops."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with make_services(conf or settings(), metrics, retention_s) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Riskflow", version=version("riskflow"), description=DESCRIPTION, lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.metrics, app.state.git = metrics, commit()
    app.include_router(router)
    problems.install(app)
    documentation.install(app)
    app.add_middleware(observed.Observed, metrics=metrics)
    return app


def commit() -> str | None:
    """The commit of this checkout; None where git or its folder is not there."""
    command: Any = ["git", "-C", str(PROJECT), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
