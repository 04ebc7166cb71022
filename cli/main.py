"""The `riskflow` command: one file per group of commands, found here."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from riskflow.errors import NotReady, RiskflowError, SettingsError

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)

# Each module has `register(app)`. They import what is heavy inside their commands, so `--help` stays quick.
GROUPS = [
    "data", "plan", "platform", "stream", "batch", "models", "train", "retrain", "dataset", "review", "backtest",
    "drift", "report", "serve", "demo", "chaos", "runs", "lint", "new", "lifecycle",
]  # fmt: skip


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"riskflow {version('riskflow')}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Score events for risk while they happen, and keep the models fresh."""


def main() -> None:
    """Run the command line. Exit codes: 0 ok, 1 failed, 2 usage, 3 not ready, 130 interrupted."""
    sys.dont_write_bytecode = False  # where the environment says so, each command compiles what it imports: seconds
    for group in GROUPS:
        importlib.import_module(f"cli.{group}").register(app)
    try:
        app()
    except RiskflowError as error:
        print(f"riskflow: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, NotReady) else 2 if isinstance(error, SettingsError) else 1)


if __name__ == "__main__":
    main()
