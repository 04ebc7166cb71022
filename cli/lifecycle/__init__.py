"""`riskflow lifecycle`: one model's whole life on the local platform, in minutes; each step is asserted."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import Json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(lifecycle)


def lifecycle(
    quick: Annotated[bool, typer.Option("--quick", help="drift and the bad training set in one retraining")] = False,
    seed: Annotated[int, typer.Option(help="of the invented town")] = 7,
    as_json: Json = False,
) -> None:
    """Race, judge, roll out, watch, roll back: a model's life in Airflow, while payments stream.

    New labels arrive, Airflow learns again, the challenger shadows, wins its race on matured labels, is approved, is
    canary, is champion; the world changes, which is noticed and learned from; a bad model is refused; the champion is
    rolled back.
    """
    from cli.lifecycle.play import play

    raise typer.Exit(0 if play(quick, seed, as_json) else 1)
