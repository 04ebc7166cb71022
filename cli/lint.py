"""`riskflow lint`: everything that is wrong with a use case, before Airflow or a worker meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    app.command()(lint)


def lint(
    usecase: Annotated[str, typer.Argument(help="use case; default: all of them")] = "",
    dags: Annotated[Path | None, typer.Option(help="Airflow's DAG folder; default: dags/ of this project")] = None,
    as_json: Json = False,
) -> None:
    """Check plan, policy and pipeline.yaml. Each error comes with file, line and fix; exit code 1 when there is one."""
    from batch.lint import lint_usecase
    from riskflow.settings import PROJECT, settings
    from riskflow.usecase import usecase_names

    conf = settings()
    names = [usecase] if usecase else usecase_names(conf.usecases)
    found = {name: lint_usecase(name, conf.usecases, dags or PROJECT / "dags") for name in names}
    if as_json:
        print(json.dumps({name: [vars(problem) for problem in problems] for name, problems in found.items()}))
    for name, problems in found.items() if not as_json else ():
        print(f"{name}: {len(problems) or 'no'} problem{'s' if len(problems) != 1 else ''}")
        for problem in problems:
            print(f"  {problem}")
    if any(found.values()):
        raise typer.Exit(1)
