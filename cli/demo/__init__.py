"""`riskflow demo`: the whole platform on one screen, from nothing to a model that was swapped while events flowed."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


def demo(
    days: Annotated[int, typer.Option(min=20, help="of history")] = 90,
    customers: Annotated[int, typer.Option(min=100, help="of the invented town; each pays about twice a day")] = 2_000,
    rate: Annotated[float, typer.Option(min=1, help="events a second")] = 200.0,
    seconds: Annotated[int, typer.Option(min=1, help="shortest time that events stream")] = 60,
    seed: int = 7,
    airflow: Annotated[bool, typer.Option("--airflow/--no-airflow", help="retrain through Airflow")] = True,
    keep: Annotated[bool, typer.Option("--keep", help="leave it running until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON on the last line")] = False,
) -> None:
    """Show everything: a history, a first model, live scores, retraining, the swap in flight, the proof of parity.

    All of it lives in one folder, RISKFLOW_HOME/demo, which is made anew. Ctrl-C leaves no process.
    """
    from cli.demo.play import play
    from cli.demo.stage import Options

    options = Options(days=days, customers=customers, rate=rate, seconds=seconds, seed=seed, airflow=airflow, keep=keep)
    try:
        good = play(options, as_json)
    except KeyboardInterrupt:
        typer.echo("\nstopped; nothing is left running", err=True)
        raise typer.Exit(130) from None
    if not good:
        raise typer.Exit(1)
