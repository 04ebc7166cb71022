"""`riskflow up | down | status | doctor`: the local platform."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ops.doctor import Check
    from ops.local import State

Json = Annotated[bool, typer.Option("--json", help="machine-readable, on stdout")]
NOT_READY = 3


def register(app: typer.Typer) -> None:
    for command in (up, down, status, doctor):
        app.command()(command)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(airflow)


def up(
    airflow: Annotated[bool, typer.Option("--airflow/--no-airflow", help="start Airflow's three processes too")] = True,
) -> None:
    """Start Kafka, Redis and Airflow on this machine, in the background. Harmless when they run already.

    Addresses in the environment (RISKFLOW_KAFKA, RISKFLOW_REDIS_URL, RISKFLOW_AIRFLOW_URL) replace local services.
    """
    from ops import local

    services = local.up(airflow=airflow, tell=_tell)
    if services.airflow_url:
        _make_pools(services.environment())
    for name, value in services.environment().items():
        typer.echo(f"{name}={value}")
    if services.airflow_url:
        _tell(f"Airflow's login: {login()}")
    _tell("Stop them with: riskflow down")


def _make_pools(environment: dict[str, str]) -> None:
    """Pools that pipeline.yaml files name. Services run without them, so a mistake is told and stops nothing."""
    from batch.pools import make_pools
    from riskflow.errors import RiskflowError
    from riskflow.settings import load

    try:
        make_pools(load(airflow_url=environment["RISKFLOW_AIRFLOW_URL"]))
    except RiskflowError as error:
        _tell(f"pools were not made: {error}")


def down() -> None:
    """Stop everything that `riskflow up` started."""
    from ops import local

    names = local.down()
    _tell(f"stopped: {', '.join(names)}" if names else "nothing runs")


def status(as_json: Json = False) -> None:
    """What runs, and where. Exit code 3 when something that was started does not answer."""
    from dataclasses import asdict

    from ops import local

    states = local.status()
    if as_json:
        typer.echo(json.dumps([{**asdict(state), "running": state.running} for state in states]))
    else:
        for state in states:
            _print_state(state)
    if any(state.origin != "none" and not state.running for state in states):
        raise typer.Exit(NOT_READY)


def airflow(words: typer.Context) -> None:
    """Airflow's own command line on this platform's Airflow.

    riskflow airflow backfill create --dag-id card_fraud_score_batch --from-date 2026-01-01 --to-date 2026-01-31
    """
    import os

    from ops import local

    os.execve(*local.airflow_command(words.args))


def login() -> str:
    """Who may look at Airflow, as the settings say."""
    from riskflow.settings import settings

    password = settings().airflow_password.get_secret_value()
    return f"user {settings().airflow_user}, password {password} (RISKFLOW_AIRFLOW_USER, RISKFLOW_AIRFLOW_PASSWORD)"


def doctor(as_json: Json = False) -> None:
    """Check what the platform needs: measured value, and the one command that repairs it. Exit code 3: not ready."""
    from dataclasses import asdict

    from ops import doctor as checks

    results = checks.examine()
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], ensure_ascii=False))
    else:
        _print_checks(results)
    if not all(result.ok for result in results):
        raise typer.Exit(NOT_READY)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _print_state(state: State) -> None:
    mark = "✔" if state.running else "–" if state.origin == "none" else "✘"
    pids = f"  pid {', '.join(map(str, state.pids))}" if state.pids else ""
    typer.echo(f"{mark} {state.name:8} {state.problem or state.address}{pids}")


def _print_checks(results: list[Check]) -> None:
    width = max(len(result.name) for result in results)
    for result in results:
        typer.echo(f"{'✔' if result.ok else '✘'} {result.name:{width}}  {result.value}")
        if not result.ok:
            typer.echo(f"{'':{width + 4}}repair: {result.repair}")
