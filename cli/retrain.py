"""`riskflow retrain`: learn again, judge and publish, through Airflow or without it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, Seconds, Trials, UseCase

if TYPE_CHECKING:
    from cli.retrain_progress import Progress

Why = Annotated[str, typer.Option(help="the reason, for the history")]
Days = Annotated[int | None, typer.Option("--train-days", min=2, help="learn from so many days instead of the span")]
Alias = Annotated[
    str,
    typer.Option(help="champion, challenger, shadow, also with :NAME; default: as `promotion` in pipeline.yaml says"),
]
Layer = Annotated[str | None, typer.Option(help="train this layer alone, beside the champion's others (with --local)")]
Local = Annotated[bool, typer.Option("--local", help="run the same steps here, without Airflow")]


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    app.command()(retrain)


def retrain(
    usecase: UseCase = "card_fraud",
    why: Why = "",
    train_days: Days = None,
    alias: Alias = "",
    local: Local = False,
    layer: Layer = None,
    trials: Trials = None,
    search_seconds: Seconds = None,
    as_json: Json = False,
) -> None:
    """Train a use case anew on what was archived; publish the best candidate if it passes its gates.

    riskflow retrain card_fraud --why "more fraud since Monday"

    riskflow retrain card_fraud --local --layer fraud --trials 20

    While challengers race it waits for their verdict, unless --alias says who the new bundle shall be.
    """
    from cli.retrain_progress import progress

    started = time.monotonic()
    asked = {"why": why, "train_days": train_days, **({"alias": alias} if alias else {})}
    here = {"layer": layer, "trials": trials, "search_seconds": search_seconds}
    if not local and any(value is not None for value in here.values()):
        raise typer.BadParameter("--layer, --trials and --search-seconds are for --local; Airflow reads pipeline.yaml")
    _check(usecase, alias)
    with progress() as shown:
        published = _here(usecase, {**asked, **here}, shown) if local else _by_airflow(usecase, asked, shown)
    summary = {**published, "seconds": round(time.monotonic() - started, 1)}
    if as_json:
        print(json.dumps(summary))
    else:
        print(f"{usecase}: version {summary['version']} is published as {summary['alias']} ({summary['seconds']} s)")


def _check(usecase: str, alias: str) -> None:
    """What Airflow would answer with a page, said in a line before it is asked."""
    from cli.common import check_usecase
    from riskflow.moves import CHAMPION, is_beside

    check_usecase(usecase)
    if alias not in ("", CHAMPION) and not is_beside(alias):
        names = "champion, challenger, challenger:NAME, shadow or shadow:NAME"
        raise typer.BadParameter(f"--alias {alias!r}: a new bundle becomes {names}")


def _by_airflow(usecase: str, asked: dict[str, Any], shown: Progress) -> dict[str, Any]:
    """Starts the DAG and follows it to its end."""
    from batch.airflow_client import Airflow
    from batch.airflow_run import follow
    from riskflow.settings import settings

    airflow = Airflow.of(settings())
    run_id = airflow.trigger(f"{usecase}_retrain", asked)
    shown.say(f"run {run_id}: {airflow.url}/dags/{usecase}_retrain/runs/{run_id}")
    return follow(airflow, usecase, run_id, shown.task)


def _here(usecase: str, asked: dict[str, Any], shown: Progress) -> dict[str, Any]:
    """The same steps in this process."""
    from dataclasses import replace

    from batch.local_chain import retrain_here
    from batch.pipeline_search import searching
    from batch.run import Run
    from batch.turn import alias_for
    from cli.common import load_plan, user
    from riskflow.settings import settings

    run = Run.of(load_plan(usecase), settings(), time.strftime("local-%Y%m%dT%H%M%S", time.gmtime()))
    if asked["train_days"]:
        run = replace(run, pipeline=run.pipeline.learning_from(asked["train_days"]))
    pipeline = searching(run.pipeline, asked["trials"], asked["search_seconds"])
    run = replace(run, pipeline=pipeline, layer=asked["layer"])
    alias = alias_for(run, asked.get("alias"))
    return retrain_here(run, shown.task, who=user(), why=asked["why"] or "retrained by hand", alias=alias)
