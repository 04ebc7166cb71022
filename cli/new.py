"""`riskflow new`: a use case to begin with, small and whole, and the file that brings its DAGs to Airflow."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Annotated

import typer

SCAFFOLD = Path(__file__).parent / "scaffold"
FILES = ("events.py", "features.py", "models.py", "policy.yaml", "pipeline.yaml")


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    app.command()(new)


def new(
    name: Annotated[str, typer.Argument(help="a-z, 0-9 and _")],
    dags: Annotated[Path | None, typer.Option(help="Airflow's DAG folder; default: dags/ of this project")] = None,
) -> None:
    """Write a new use case that works: events, features, models, policy, pipeline, and its DAG file.

    riskflow new refunds && riskflow lint refunds
    """
    from riskflow.settings import PROJECT, settings

    for path in write_usecase(name, settings().usecases, dags or PROJECT / "dags"):
        print(path)
    print(f"\nTry it:  riskflow lint {name}")
    print(f"         riskflow simulate --out history_{name} --days 60")
    files = f"--events history_{name}/events.parquet --labels history_{name}/labels.parquet"
    print(f"         riskflow train {name} {files}")


def write_usecase(name: str, usecases: Path, dags: Path) -> list[Path]:
    """Writes the files; raises DeclarationError when one of them is there already: nothing is written then."""
    from riskflow.errors import DeclarationError
    from riskflow.names import checked

    if keyword.iskeyword(name):
        raise DeclarationError(f"use case {name!r}", "is a word of Python: no module has that name", "Choose another")
    folder = usecases / checked(name, "use case")
    wanted = {folder / file: SCAFFOLD / f"{file}.tmpl" for file in FILES}
    wanted[dags / f"{name}.py"] = SCAFFOLD / "dag.py.tmpl"
    for path in [folder, *wanted]:
        if path.exists():
            raise DeclarationError(f"use case {name!r}", f"{path} is there already", "Choose another name")
    if not dags.is_dir():
        raise DeclarationError(f"use case {name!r}", f"there is no folder {dags}", "Make it, or name another: --dags")
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for path, template in wanted.items():
        path.write_text(template.read_text().replace("NAME", name))
    return list(wanted)
