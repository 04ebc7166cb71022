"""`riskflow serve`: the web API."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import typer


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on; default from RISKFLOW_SERVING_URL")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one")] = None,
    retention: Annotated[str, typer.Option(help="how long scores are kept, for example 12h or 30d")] = "7d",
) -> None:
    """Look up scores and models over HTTP, with /docs, /readyz and /metrics. It has no password: keep it inside."""
    import uvicorn

    from riskflow.durations import duration_ms
    from riskflow.settings import settings
    from serving.app import create_app
    from serving.services import check_alone
    from stream.process import configure_logs

    conf = settings()
    check_alone(conf)
    configure_logs(conf.log_level)
    default = urlsplit(conf.serving_url)
    uvicorn.run(
        create_app(conf, retention_s=duration_ms(retention) / 1000),
        host=host or default.hostname or "127.0.0.1",
        port=default.port or 8000 if port is None else port,
        log_level=conf.log_level,
        access_log=False,
        timeout_graceful_shutdown=10,
    )
